// Asks Istio's own analyzers, all of them, about files: each file by itself, as `istioctl analyze --use-kube=false`.
//
// usage: analyze OUTPUT FILE...
package main

import (
	"encoding/json"
	"os"
	"path/filepath"

	"istio.io/istio/pkg/config/analysis/analyzers"
	"istio.io/istio/pkg/config/analysis/local"
)

type finding struct {
	Code   string `json:"code"`
	Level  string `json:"level"`
	Origin string `json:"origin"`
}

func analyze(path string) []finding {
	source := local.NewSourceAnalyzer(analyzers.AllCombined(), "", "istio-system", nil)
	file, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	found := []finding{}
	// With the kinds of Kubernetes, which a cluster would give.
	if err := source.AddTestReaderKubeSource([]local.ReaderSource{{Name: path, Reader: file}}); err != nil {
		return found
	}
	if err := source.AddDefaultResources(); err != nil {
		panic(err)
	}
	result, err := source.Analyze(make(chan struct{}))
	if err != nil {
		panic(err)
	}
	for _, message := range result.Messages {
		origin := ""
		if message.Resource != nil {
			origin = message.Resource.Origin.FriendlyName()
		}
		found = append(found, finding{message.Type.Code(), message.Type.Level().String(), origin})
	}
	return found
}

func main() {
	all := map[string][]finding{}
	for _, path := range os.Args[2:] {
		all[filepath.Base(path)] = analyze(path)
	}
	text, err := json.Marshal(all)
	if err == nil {
		err = os.WriteFile(os.Args[1], text, 0o644)
	}
	if err != nil {
		panic(err)
	}
}

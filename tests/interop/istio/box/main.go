// Command box runs the real istiod's discovery server without a cluster, over a folder of YAML, so that what meshsdk
// makes of the folder can be compared with what istiod makes of it.
//
//	box serve  [-listen 127.0.0.1:15010] [-mesh FILE] FOLDER
//	box record < questions.jsonl > answers.jsonl
//
// serve answers any xDS client, in plaintext, and follows edits of the folder. record reads one question a line and writes one answer a line: for each
// node, the resources that istiod sends it, or why a cluster would have refused an object of the folder.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/schema/gatewayapi"
	"istio.io/istio/pkg/log"
	"istio.io/istio/pkg/test"
)

func main() {
	quiet()
	// The fake API server's CRDs tell no version, and istiod would not look at what is of them.
	clear(gatewayapi.MinimumCRDVersions)
	if len(os.Args) < 2 {
		usage()
	}
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2:])
	case "record":
		err = record(os.Stdin, os.Stdout)
	case "version":
		fmt.Println(istioVersion())
	default:
		usage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: box serve [-listen ADDRESS] [-mesh FILE] FOLDER | box record | box version")
	os.Exit(2)
}

// quiet keeps istiod's log to what is fatal: it writes a line for every push.
func quiet() {
	options := log.DefaultOptions()
	options.SetDefaultOutputLevel(log.OverrideScopeName, log.NoneLevel)
	_ = log.Configure(options)
}

// istioVersion is the version of the module that this was built with.
func istioVersion() string {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, dependency := range info.Deps {
			if dependency.Path == "istio.io/istio" {
				return dependency.Version
			}
		}
	}
	return "unknown"
}

func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:15010", "address to serve xDS on, in plaintext")
	meshFile := flags.String("mesh", "", "file with a MeshConfig; its fields stand in place of the defaults")
	_ = flags.Parse(arguments)
	if flags.NArg() != 1 {
		usage()
	}
	meshText := ""
	if *meshFile != "" {
		content, err := os.ReadFile(*meshFile)
		if err != nil {
			return err
		}
		meshText = string(content)
	}
	folder, err := readFolder(flags.Arg(0))
	if err != nil {
		return err
	}
	options, err := folder.options(meshText)
	if err != nil {
		return err
	}
	options.DebounceTime = 50 * time.Millisecond
	options.ListenerBuilder = func() (net.Listener, error) { return net.Listen("tcp", *listen) }
	return test.Wrap(func(t test.Failer) {
		// An edit would wait for them.
		if _, err := schemas(); err != nil {
			t.Fatal(err)
		}
		server := xds.NewFakeDiscoveryServer(t, options)
		fmt.Println("serving on", *listen)
		follow(server, flags.Arg(0), folder)
	})
}

// question is one folder, and the nodes that ask for its resources.
type question struct {
	Folder string `json:"folder"`
	Mesh   string `json:"mesh"`
	Nodes  []node `json:"nodes"`
}

// answer holds the resources of each node, in the order of the question; or why the folder is refused.
type answer struct {
	Nodes []resources `json:"nodes,omitempty"`
	Error string      `json:"error,omitempty"`
}

// atOnce is how many folders are worked on at a time: most of the time of each goes by waiting for its controllers.
const atOnce = 4

func record(in io.Reader, out io.Writer) error {
	before := runtime.NumGoroutine()
	answers := make(chan chan answer, atOnce)
	var broken error
	go func() {
		defer close(answers)
		lines := bufio.NewReaderSize(in, 1<<20)
		for number := 1; broken == nil; number++ {
			line, err := lines.ReadBytes('\n')
			if len(line) > 1 {
				var asked question
				if err := json.Unmarshal(line, &asked); err != nil {
					broken = fmt.Errorf("line %d: %w", number, err)
					return
				}
				one := make(chan answer, 1)
				answers <- one
				go func() { one <- answerTo(asked) }()
			}
			if err != nil {
				if err != io.EOF {
					broken = err
				}
				return
			}
		}
	}()
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for one := range answers {
		if err := encoder.Encode(<-one); err != nil {
			return err
		}
		// A server that did not stop would slow down all that come after it.
		if left := runtime.NumGoroutine() - before; left > 20000 {
			return fmt.Errorf("%d goroutines are left over", left)
		}
	}
	return broken
}

func answerTo(asked question) answer {
	folder, err := readFolder(asked.Folder)
	if err != nil {
		return answer{Error: err.Error()}
	}
	options, err := folder.options(asked.Mesh)
	if err != nil {
		return answer{Error: err.Error()}
	}
	var found answer
	err = test.Wrap(func(t test.Failer) {
		// An edit would wait for them.
		if _, err := schemas(); err != nil {
			t.Fatal(err)
		}
		server := xds.NewFakeDiscoveryServer(t, options)
		if err := settle(t, server, folder); err != nil {
			t.Fatal(err)
		}
		for _, one := range asked.Nodes {
			answered, err := one.ask(t, server)
			if err != nil {
				t.Fatalf("node %s: %v", one.Name, err)
			}
			found.Nodes = append(found.Nodes, answered)
		}
	})
	if err != nil {
		return answer{Error: "istiod: " + err.Error()}
	}
	return found
}

// settle has istiod look again at endpoints that terminate. At its start it may come to know them before their Service,
// and then takes them for unhealthy ones.
func settle(t test.Failer, server *xds.FakeDiscoveryServer, f *folder) error {
	settled := true
	for _, object := range f.kube {
		slice, ok := object.(*discoveryv1.EndpointSlice)
		if !ok || !hasTerminating(slice) {
			continue
		}
		settled = false
		changed := slice.DeepCopy()
		changed.Annotations = map[string]string{"box/settled": "true"}
		slices := server.KubeClient().Kube().DiscoveryV1().EndpointSlices(slice.Namespace)
		if _, err := slices.Update(context.Background(), changed, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	if !settled {
		time.Sleep(500 * time.Millisecond)
		server.EnsureSynced(t)
	}
	return nil
}

// A management server of go-control-plane's: whatever snapshot is written to its standard input, as one line of JSON, it
// serves from then on, over ADS in both variants. It says on its standard output where it listens, when a snapshot is in
// use, and what clients refuse.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Every node gets the same snapshot.
type anyNode struct{}

func (anyNode) ID(*core.Node) string { return "any" }

// What a line of the standard input holds: resources by the last part of their type.
type snapshot struct {
	Version   string                       `json:"version"`
	Resources map[string][]json.RawMessage `json:"resources"`
}

var kinds = map[string]struct {
	url  string
	make func() proto.Message
}{
	"Listener":              {resource.ListenerType, func() proto.Message { return &listener.Listener{} }},
	"RouteConfiguration":    {resource.RouteType, func() proto.Message { return &route.RouteConfiguration{} }},
	"Cluster":               {resource.ClusterType, func() proto.Message { return &cluster.Cluster{} }},
	"ClusterLoadAssignment": {resource.EndpointType, func() proto.Message { return &endpoint.ClusterLoadAssignment{} }},
	"Secret":                {resource.SecretType, func() proto.Message { return &tls.Secret{} }},
}

func parse(line []byte) (*cache.Snapshot, error) {
	var read snapshot
	if err := json.Unmarshal(line, &read); err != nil {
		return nil, err
	}
	parsed := map[resource.Type][]types.Resource{}
	for name, texts := range read.Resources {
		kind, known := kinds[name]
		if !known {
			return nil, fmt.Errorf("%s is not served here", name)
		}
		for _, text := range texts {
			message := kind.make()
			if err := protojson.Unmarshal(text, message); err != nil {
				return nil, err
			}
			parsed[kind.url] = append(parsed[kind.url], message)
		}
	}
	return cache.NewSnapshot(read.Version, parsed)
}

func main() {
	address := flag.String("listen", "127.0.0.1:0", "where to listen")
	whole := flag.Bool("whole", false, "answer none that asks for less than everything (the cache's ADS mode)")
	flag.Parse()
	ctx := context.Background()
	snapshots := cache.NewSnapshotCache(*whole, anyNode{}, nil)
	callbacks := server.CallbackFuncs{
		StreamRequestFunc: func(_ int64, request *discovery.DiscoveryRequest) error {
			if request.ErrorDetail != nil {
				fmt.Printf("refused %s\n", request.ErrorDetail.Message)
			}
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, request *discovery.DeltaDiscoveryRequest) error {
			if request.ErrorDetail != nil {
				fmt.Printf("refused %s\n", request.ErrorDetail.Message)
			}
			return nil
		},
	}
	services := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(services, server.NewServer(ctx, snapshots, callbacks))
	socket, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(services.Serve(socket)) }()
	fmt.Printf("listening %d\n", socket.Addr().(*net.TCPAddr).Port)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		parsed, err := parse(lines.Bytes())
		if err == nil {
			err = snapshots.SetSnapshot(ctx, "any", parsed)
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("serving")
	}
}

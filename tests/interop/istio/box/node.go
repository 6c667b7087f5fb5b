package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sort"
	"strconv"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"istio.io/istio/pilot/pkg/model"
	v3 "istio.io/istio/pilot/pkg/xds/v3"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pilot/test/xdstest"
	"istio.io/istio/pkg/istio-agent/grpcxds"
	"istio.io/istio/pkg/test"
	"istio.io/istio/pkg/util/sets"
)

const answerWithin = 10 * time.Second

// node is a client or a server of the mesh, as it tells istiod of itself.
type node struct {
	Name      string            `json:"name"`
	Profile   string            `json:"profile"`
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels"`
	IP        string            `json:"ip"`
	Packed    bool              `json:"packed"`
	Locality  struct {
		Region  string `json:"region"`
		Zone    string `json:"zone"`
		SubZone string `json:"subzone"`
	} `json:"locality"`
}

// resources are a node's, as JSON, sorted by name; and as they came, where the node asks for that.
type resources struct {
	Listeners []json.RawMessage `json:"listeners"`
	Routes    []json.RawMessage `json:"routes"`
	Clusters  []json.RawMessage `json:"clusters"`
	Endpoints []json.RawMessage `json:"endpoints"`
	Packed    []*anypb.Any      `json:"packed,omitempty"`
}

func (n *node) fill() {
	if n.Namespace == "" {
		n.Namespace = defaultNamespace
	}
	if n.Name == "" {
		n.Name = "client"
	}
	if n.IP == "" {
		n.IP = "192.0.2.1"
	}
}

func (n *node) message() (*core.Node, error) {
	labels := map[string]any{}
	for key, value := range n.Labels {
		labels[key] = value
	}
	metadata := map[string]any{
		"NAMESPACE": n.Namespace, "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.31.0", "LABELS": labels,
		"INSTANCE_IPS": n.IP,
	}
	switch n.Profile {
	case "grpc":
		metadata["GENERATOR"] = "grpc"
	case "sidecar", "":
	default:
		return nil, fmt.Errorf("there is no profile %q", n.Profile)
	}
	packed, err := structpb.NewStruct(metadata)
	if err != nil {
		return nil, err
	}
	return &core.Node{
		Id:       fmt.Sprintf("sidecar~%s~%s.%s~%s.svc.%s", n.IP, n.Name, n.Namespace, n.Namespace, domain),
		Metadata: packed,
		Locality: &core.Locality{Region: n.Locality.Region, Zone: n.Locality.Zone, SubZone: n.Locality.SubZone},
	}, nil
}

// conversation is one state-of-the-world ADS stream.
type conversation struct {
	stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	node   *core.Node
	latest map[string]*discovery.DiscoveryResponse
	packed []*anypb.Any
}

func (n node) ask(t test.Failer, server *xds.FakeDiscoveryServer) (resources, error) {
	n.fill()
	message, err := n.message()
	if err != nil {
		return resources{}, err
	}
	connection, err := grpc.NewClient(
		"passthrough:///box",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return server.BufListener.Dial() }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)
	if err != nil {
		return resources{}, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(connection).StreamAggregatedResources(ctx)
	if err != nil {
		return resources{}, err
	}
	c := &conversation{stream: stream, node: message, latest: map[string]*discovery.DiscoveryResponse{}}
	var found resources
	if n.Profile == "grpc" {
		found, err = c.asGrpc(n.inboundNames(server))
	} else {
		found, err = c.asSidecar()
	}
	if n.Packed {
		found.Packed = c.packed
	}
	return found, err
}

// inboundNames are the listeners that a server of this node would ask for: of each port that some Service leads to.
func (n node) inboundNames(server *xds.FakeDiscoveryServer) []string {
	proxy := server.SetupProxy(&model.Proxy{
		ID:              n.Name + "." + n.Namespace,
		IPAddresses:     []string{n.IP},
		ConfigNamespace: n.Namespace,
		Labels:          n.Labels,
		Metadata:        &model.NodeMetadata{Namespace: n.Namespace, ClusterID: "Kubernetes", Labels: n.Labels},
	})
	names := sets.New[string]()
	for _, target := range proxy.ServiceTargets {
		names.Insert(grpcxds.ServerListenerNamePrefix + net.JoinHostPort("0.0.0.0", strconv.Itoa(int(target.Port.TargetPort))))
	}
	return sets.SortedList(names)
}

// ask sends a request of one type and waits for its answer. Of what comes for other types, nothing is needed.
func (c *conversation) ask(typeURL string, names []string) ([]*anypb.Any, error) {
	request := &discovery.DiscoveryRequest{Node: c.node, TypeUrl: typeURL, ResourceNames: names}
	if before := c.latest[typeURL]; before != nil {
		request.ResponseNonce, request.VersionInfo = before.Nonce, before.VersionInfo
	}
	if err := c.stream.Send(request); err != nil {
		return nil, err
	}
	for {
		response, err := c.stream.Recv()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v3.GetShortType(typeURL), err)
		}
		if response.TypeUrl == typeURL {
			c.latest[typeURL] = response
			c.packed = append(c.packed, response.Resources...)
			return response.Resources, nil
		}
	}
}

func (c *conversation) asGrpc(inbound []string) (resources, error) {
	packed, err := c.ask(v3.ListenerType, nil)
	if err != nil {
		return resources{}, err
	}
	listeners, err := unpacked[*listener.Listener](packed)
	if err != nil {
		return resources{}, err
	}
	var names []string
	for _, one := range listeners {
		names = append(names, one.Name)
	}
	if len(inbound) > 0 {
		// In one request with the outbound ones they would have to be named; a second asks for them alone.
		more, err := c.ask(v3.ListenerType, inbound)
		if err != nil {
			return resources{}, err
		}
		packed = append(packed, more...)
	}
	var routeNames []string
	for _, name := range names {
		host, port, err := net.SplitHostPort(name)
		if err != nil {
			return resources{}, err
		}
		number, err := strconv.Atoi(port)
		if err != nil {
			return resources{}, err
		}
		routeNames = append(routeNames, outbound(host, number))
	}
	return c.rest(packed, routeNames, true)
}

func outbound(host string, port int) string {
	return fmt.Sprintf("outbound|%d||%s", port, host)
}

func (c *conversation) asSidecar() (resources, error) {
	packed, err := c.ask(v3.ListenerType, nil)
	if err != nil {
		return resources{}, err
	}
	listeners, err := unpacked[*listener.Listener](packed)
	if err != nil {
		return resources{}, err
	}
	var names []string
	for _, one := range listeners {
		names = append(names, xdstest.ExtractRoutesFromListeners([]*listener.Listener{one})...)
	}
	return c.rest(packed, unique(names), false)
}

// rest asks for routes, for the clusters that they lead to or for all, and for the endpoints of those.
func (c *conversation) rest(listeners []*anypb.Any, routeNames []string, byName bool) (resources, error) {
	found := resources{Listeners: asJSON(listeners)}
	var clusterNames []string
	if len(routeNames) > 0 {
		packed, err := c.ask(v3.RouteType, routeNames)
		if err != nil {
			return found, err
		}
		found.Routes = asJSON(packed)
		routes, err := unpacked[*route.RouteConfiguration](packed)
		if err != nil {
			return found, err
		}
		clusterNames = unique(append(clustersOf(routes), routeNames...))
	}
	if byName && len(clusterNames) == 0 {
		return found, nil
	}
	if !byName {
		clusterNames = nil
	}
	packed, err := c.ask(v3.ClusterType, clusterNames)
	if err != nil {
		return found, err
	}
	found.Clusters = asJSON(packed)
	clusters, err := unpacked[*cluster.Cluster](packed)
	if err != nil {
		return found, err
	}
	endpointNames := xdstest.ExtractEdsClusterNames(clusters)
	if len(endpointNames) == 0 {
		return found, nil
	}
	packed, err = c.ask(v3.EndpointType, unique(endpointNames))
	if err != nil {
		return found, err
	}
	found.Endpoints = asJSON(packed)
	return found, nil
}

func unique(names []string) []string {
	return sets.SortedList(sets.New(names...))
}

func clustersOf(configurations []*route.RouteConfiguration) []string {
	var names []string
	for _, configuration := range configurations {
		for _, virtualHost := range configuration.VirtualHosts {
			for _, one := range virtualHost.Routes {
				action := one.GetRoute()
				if action == nil {
					continue
				}
				if name := action.GetCluster(); name != "" {
					names = append(names, name)
				}
				for _, weighted := range action.GetWeightedClusters().GetClusters() {
					names = append(names, weighted.Name)
				}
				for _, mirror := range action.RequestMirrorPolicies {
					names = append(names, mirror.Cluster)
				}
			}
		}
	}
	return names
}

func unpacked[M proto.Message](packed []*anypb.Any) ([]M, error) {
	var found []M
	for _, one := range packed {
		made, err := one.UnmarshalNew()
		if err != nil {
			return nil, err
		}
		found = append(found, made.(M))
	}
	return found, nil
}

// asJSON writes resources compactly, and in an order that does not change from run to run.
func asJSON(packed []*anypb.Any) []json.RawMessage {
	written := make([]json.RawMessage, 0, len(packed))
	for _, one := range packed {
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(one)
		if err != nil {
			panic(errors.Join(errors.New("a resource of istiod cannot be written as JSON"), err))
		}
		// protojson puts in blanks at random, so that nobody compares its bytes; we write files that git compares.
		var compact bytes.Buffer
		if err := json.Compact(&compact, text); err != nil {
			panic(err)
		}
		written = append(written, compact.Bytes())
	}
	sort.Slice(written, func(i, j int) bool { return bytes.Compare(written[i], written[j]) < 0 })
	return written
}

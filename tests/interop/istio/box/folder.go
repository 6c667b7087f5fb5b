package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/mesh"
	kubelib "istio.io/istio/pkg/kube"
)

const (
	domain           = "cluster.local"
	defaultNamespace = "default"
	meshConfigName   = "istio"
	rootNamespace    = "istio-system"
)

// began is when the first object of a folder was made that does not say so; those after it follow a second apart, as
// where they are applied in order. It is fixed, since istiod breaks ties by age, and before all that say so.
var began = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// folder is what a cluster would hold once all documents of a folder were applied to it.
type folder struct {
	kube  []runtime.Object
	istio []config.Config
	mesh  string
}

type head struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   metav1.ObjectMeta `json:"metadata"`
}

func (h head) isIstio() bool {
	return strings.HasSuffix(h.group(), "istio.io")
}

func (h head) isGatewayAPI() bool {
	return h.group() == "gateway.networking.k8s.io"
}

func (h head) group() string {
	group, _, _ := strings.Cut(h.APIVersion, "/")
	return group
}

// readFolder reads all documents, in the order of their files.
func readFolder(root string) (*folder, error) {
	paths, err := filesOf(root)
	if err != nil {
		return nil, err
	}
	read := &folder{}
	number := 0
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for _, document := range strings.Split("\n"+string(content), "\n---") {
			if err := read.add(document, began.Add(time.Duration(number)*time.Second)); err != nil {
				return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
			}
			number++
		}
	}
	read.actAsCluster()
	return read, nil
}

func filesOf(root string) ([]string, error) {
	var paths []string
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		switch filepath.Ext(path) {
		case ".yaml", ".yml", ".json":
			paths = append(paths, path)
		}
		return nil
	})
	sort.Strings(paths)
	return paths, err
}

func (f *folder) add(document string, made time.Time) error {
	var h head
	if err := yaml.Unmarshal([]byte(document), &h); err != nil {
		return err
	}
	if h.Kind == "" {
		return nil
	}
	if h.isIstio() {
		return f.addIstio(document, made)
	}
	if h.isGatewayAPI() {
		return f.addGatewayAPI(document, made)
	}
	if h.Kind == "ConfigMap" && h.Metadata.Name == meshConfigName {
		return f.addMesh(document)
	}
	return f.addKube(document, made)
}

// addIstio takes an object as the API server does with Istio's CRDs and its validation webhook in place.
func (f *folder) addIstio(document string, made time.Time) error {
	var object head
	if err := yaml.Unmarshal([]byte(document), &object); err != nil {
		return err
	}
	accepted, name, err := accept(document, "")
	if err != nil {
		return err
	}
	// ParseInputs validates what it reads as the webhook does (schema.ValidateConfig).
	found, unknown, err := crd.ParseInputs(string(accepted))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(unknown) > 0 {
		return nil // Of a kind that istiod does not read; the API server keeps it.
	}
	for _, one := range found {
		one.Domain = domain
		if one.CreationTimestamp.IsZero() {
			one.CreationTimestamp = made
		}
		f.istio = append(f.istio, one)
	}
	if object.Kind == "ServiceEntry" {
		// As a parent of Gateway API's routes it is looked up in the cluster.
		return f.addKube(string(accepted), made)
	}
	return nil
}

// The versions in which istiod asks for them; the API server gives each object in any version that it serves.
var gatewayVersions = map[string]string{
	"HTTPRoute": "v1", "GRPCRoute": "v1", "TCPRoute": "v1", "TLSRoute": "v1", "ReferenceGrant": "v1beta1",
}

// addGatewayAPI takes an object as the API server does with the CRDs of Gateway API, which also fill in defaults.
func (f *folder) addGatewayAPI(document string, made time.Time) error {
	var h head
	if err := yaml.Unmarshal([]byte(document), &h); err != nil {
		return err
	}
	accepted, name, err := accept(document, gatewayVersions[h.Kind])
	if err != nil {
		return err
	}
	if err := f.addKube(string(accepted), made); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// accept checks an object by its CRD, and returns it with its defaults, in another version if one is named.
func accept(document, version string) ([]byte, string, error) {
	object := &unstructured.Unstructured{}
	asJSON, err := yaml.YAMLToJSON([]byte(document))
	if err != nil {
		return nil, "", err
	}
	// Whole numbers must stay whole for the rules of the schema.
	if err := object.UnmarshalJSON(asJSON); err != nil {
		return nil, "", err
	}
	name := object.GetKind() + "/" + object.GetName()
	if object.GetNamespace() == "" {
		object.SetNamespace(defaultNamespace)
	}
	if err := checkSchema(object); err != nil {
		return nil, name, fmt.Errorf("%s: %w", name, err)
	}
	if version != "" {
		object.SetAPIVersion(object.GroupVersionKind().Group + "/" + version)
	}
	accepted, err := yaml.Marshal(object.Object)
	return accepted, name, err
}

func (f *folder) addMesh(document string) error {
	var configMap corev1.ConfigMap
	if err := yaml.Unmarshal([]byte(document), &configMap); err != nil {
		return err
	}
	f.mesh = configMap.Data["mesh"]
	return nil
}

func (f *folder) addKube(document string, made time.Time) error {
	object, _, err := kubelib.IstioCodec.UniversalDeserializer().Decode([]byte(document), nil, nil)
	if err != nil {
		if runtime.IsNotRegisteredError(err) {
			return nil
		}
		return err
	}
	meta, ok := object.(metav1.Object)
	if !ok {
		return errors.New("is not a single object")
	}
	_, isNamespace := object.(*corev1.Namespace)
	_, isNode := object.(*corev1.Node)
	if meta.GetNamespace() == "" && !isNamespace && !isNode {
		meta.SetNamespace(defaultNamespace)
	}
	stamp := meta.GetCreationTimestamp()
	if stamp.IsZero() {
		meta.SetCreationTimestamp(metav1.NewTime(made))
	}
	f.kube = append(f.kube, object)
	return nil
}

// options are what the discovery server is made with.
func (f *folder) options(meshText string) (xds.FakeOptions, error) {
	meshConfig := mesh.DefaultMeshConfig()
	for _, text := range []string{f.mesh, meshText} {
		if text == "" {
			continue
		}
		parsed, err := mesh.ApplyMeshConfig(text, meshConfig)
		if err != nil {
			return xds.FakeOptions{}, fmt.Errorf("MeshConfig: %w", err)
		}
		meshConfig = parsed
	}
	if meshConfig.RootNamespace == "" {
		meshConfig.RootNamespace = rootNamespace
	}
	return xds.FakeOptions{KubernetesObjects: f.kube, Configs: f.istio, MeshConfig: withoutNoise(meshConfig)}, nil
}

// withoutNoise switches off what has nothing to do with routing and makes resources larger.
func withoutNoise(m *meshconfig.MeshConfig) *meshconfig.MeshConfig {
	m.AccessLogFile = ""
	m.EnableTracing = false
	return m
}

// actAsCluster adds what the API server and the controllers of a cluster would: default namespaces, addresses of
// Services, and EndpointSlices of the Pods that they select and of Endpoints.
func (f *folder) actAsCluster() {
	var services []*corev1.Service
	pods := map[string][]*corev1.Pod{}
	sliced := map[string]bool{}
	namespaces := map[string]bool{}
	for _, object := range f.kube {
		switch one := object.(type) {
		case *corev1.Namespace:
			namespaces[one.Name] = true
		case *corev1.Service:
			services = append(services, one)
		case *corev1.Pod:
			defaultPod(one)
			pods[one.Namespace] = append(pods[one.Namespace], one)
		case *discoveryv1.EndpointSlice:
			defaultSlice(one)
			sliced[one.Namespace+"/"+one.Labels[discoveryv1.LabelServiceName]] = true
		}
	}
	for _, object := range f.kube {
		if endpoints, ok := object.(*corev1.Endpoints); ok && !sliced[endpoints.Namespace+"/"+endpoints.Name] {
			f.kube = append(f.kube, mirrored(endpoints)...)
			sliced[endpoints.Namespace+"/"+endpoints.Name] = true
		}
	}
	for number, service := range services {
		defaultService(service, number)
		if len(service.Spec.Selector) > 0 && !sliced[service.Namespace+"/"+service.Name] {
			f.kube = append(f.kube, sliceOf(service, pods[service.Namespace])...)
		}
	}
	for _, object := range f.kube {
		namespace := object.(metav1.Object).GetNamespace()
		if namespace != "" && !namespaces[namespace] {
			namespaces[namespace] = true
			f.kube = append(f.kube, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
		}
	}
}

func defaultService(service *corev1.Service, number int) {
	spec := &service.Spec
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	if spec.ClusterIP == "" && spec.Type != corev1.ServiceTypeExternalName {
		spec.ClusterIP = fmt.Sprintf("10.96.%d.%d", number/250, number%250+1)
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	for i := range spec.Ports {
		port := &spec.Ports[i]
		if port.Protocol == "" {
			port.Protocol = corev1.ProtocolTCP
		}
		if port.TargetPort == (intstr.IntOrString{}) {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
}

func defaultPod(pod *corev1.Pod) {
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = "default"
	}
	if pod.Status.PodIP != "" && len(pod.Status.PodIPs) == 0 {
		pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for c := range pod.Spec.Containers {
		for p := range pod.Spec.Containers[c].Ports {
			port := &pod.Spec.Containers[c].Ports[p]
			if port.Protocol == "" {
				port.Protocol = corev1.ProtocolTCP
			}
		}
	}
}

func defaultSlice(slice *discoveryv1.EndpointSlice) {
	if slice.AddressType == "" {
		slice.AddressType = discoveryv1.AddressTypeIPv4
	}
	for i := range slice.Ports {
		if slice.Ports[i].Name == nil {
			empty := ""
			slice.Ports[i].Name = &empty
		}
		if slice.Ports[i].Protocol == nil {
			tcp := corev1.ProtocolTCP
			slice.Ports[i].Protocol = &tcp
		}
	}
	for i := range slice.Endpoints {
		// Kubernetes' own controllers always say whether an endpoint terminates; istiod takes silence for yes.
		if slice.Endpoints[i].Conditions.Terminating == nil {
			no := false
			slice.Endpoints[i].Conditions.Terminating = &no
		}
	}
}

// hasTerminating says whether an endpoint of a slice terminates.
func hasTerminating(slice *discoveryv1.EndpointSlice) bool {
	for _, one := range slice.Endpoints {
		if terminating := one.Conditions.Terminating; terminating != nil && *terminating {
			return true
		}
	}
	return false
}

func newSlice(namespace, service, suffix string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name:              service + "-" + suffix,
			Namespace:         namespace,
			Labels:            map[string]string{discoveryv1.LabelServiceName: service},
			CreationTimestamp: metav1.NewTime(began),
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
}

// sliceOf makes the EndpointSlices of a Service as the endpoint slice controller does: one for each way in which the
// Pods name the ports.
func sliceOf(service *corev1.Service, pods []*corev1.Pod) []runtime.Object {
	var made []runtime.Object
	byPorts := map[string]*discoveryv1.EndpointSlice{}
	for _, pod := range pods {
		if !selects(service.Spec.Selector, pod.Labels) || pod.Status.PodIP == "" {
			continue
		}
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		ports := portsOf(service, pod)
		key := fmt.Sprint(numbers(ports))
		slice := byPorts[key]
		if slice == nil {
			slice = newSlice(service.Namespace, service.Name, fmt.Sprintf("pods-%d", len(byPorts)))
			slice.Ports = ports
			byPorts[key] = slice
			made = append(made, slice)
		}
		ready := isReady(pod)
		serving, terminating := ready, pod.DeletionTimestamp != nil
		ready = (ready && !terminating) || service.Spec.PublishNotReadyAddresses
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{pod.Status.PodIP},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
			NodeName:   nodeName(pod),
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name},
		})
	}
	return made
}

func numbers(ports []discoveryv1.EndpointPort) []int32 {
	var found []int32
	for _, port := range ports {
		found = append(found, *port.Port)
	}
	return found
}

func nodeName(pod *corev1.Pod) *string {
	if pod.Spec.NodeName == "" {
		return nil
	}
	return &pod.Spec.NodeName
}

// isReady takes a Pod that says nothing of its conditions for a ready one, as a folder written by hand means it.
func isReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return true
}

func portsOf(service *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for _, port := range service.Spec.Ports {
		number := port.TargetPort.IntVal
		if port.TargetPort.Type == intstr.String {
			number = namedPort(pod, port.TargetPort.StrVal)
		}
		if number == 0 && port.TargetPort.Type == intstr.Int {
			number = port.Port
		}
		if number == 0 {
			continue
		}
		name, protocol := port.Name, port.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		ports = append(ports, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &protocol, AppProtocol: port.AppProtocol})
	}
	return ports
}

func namedPort(pod *corev1.Pod, name string) int32 {
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name == name {
				return port.ContainerPort
			}
		}
	}
	return 0
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// mirrored makes EndpointSlices of Endpoints, as the mirroring controller does.
func mirrored(endpoints *corev1.Endpoints) []runtime.Object {
	var made []runtime.Object
	for number, subset := range endpoints.Subsets {
		slice := newSlice(endpoints.Namespace, endpoints.Name, fmt.Sprintf("mirrored-%d", number))
		for _, port := range subset.Ports {
			name, value, protocol := port.Name, port.Port, port.Protocol
			if protocol == "" {
				protocol = corev1.ProtocolTCP
			}
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: &value, Protocol: &protocol})
		}
		for _, ready := range []bool{true, false} {
			addresses := subset.Addresses
			if !ready {
				addresses = subset.NotReadyAddresses
			}
			for _, address := range addresses {
				isReady := ready
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
					Addresses:  []string{address.IP},
					Conditions: discoveryv1.EndpointConditions{Ready: &isReady, Serving: &isReady},
					NodeName:   address.NodeName,
					TargetRef:  address.TargetRef,
				})
			}
		}
		made = append(made, slice)
	}
	return made
}

package main

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config"
)

const lookEvery = 20 * time.Millisecond

// follow applies edits of a folder to the cluster and to the configuration that istiod watches, one object at a time. A
// folder that a cluster would refuse is told of, and changes nothing.
func follow(server *xds.FakeDiscoveryServer, root string, now *folder) {
	var before string
	for range time.Tick(lookEvery) {
		stamp, err := stampOf(root)
		if err != nil || stamp == before {
			continue
		}
		read, err := readFolder(root)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			before = stamp
			continue
		}
		if err := apply(server, now, read); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		before, now = stamp, read
	}
}

// stampOf is another one when a file is.
func stampOf(root string) (string, error) {
	paths, err := filesOf(root)
	stamp := ""
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		stamp += fmt.Sprintf("%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
	}
	return stamp, err
}

func apply(server *xds.FakeDiscoveryServer, before, after *folder) error {
	client, store := server.KubeClient().Kube(), server.Store()
	old, wanted := kubeByKey(before), kubeByKey(after)
	for key, object := range wanted {
		if known := old[key]; known == nil {
			if err := writeKube(client, object, create); err != nil {
				return err
			}
		} else if !reflect.DeepEqual(known, object) {
			if err := writeKube(client, object, update); err != nil {
				return err
			}
		}
	}
	oldConfigs, wantedConfigs := configsByKey(before), configsByKey(after)
	for key, one := range wantedConfigs {
		known, found := oldConfigs[key]
		if !found {
			if _, err := store.Create(one); err != nil {
				return err
			}
		} else if !reflect.DeepEqual(known, one) {
			if _, err := store.Update(one); err != nil {
				return err
			}
		}
	}
	for key, one := range oldConfigs {
		if _, found := wantedConfigs[key]; !found {
			if err := store.Delete(one.GroupVersionKind, one.Name, one.Namespace, nil); err != nil {
				return err
			}
		}
	}
	for key, object := range old {
		if wanted[key] == nil {
			if err := writeKube(client, object, remove); err != nil {
				return err
			}
		}
	}
	return nil
}

func kubeByKey(f *folder) map[string]runtime.Object {
	found := map[string]runtime.Object{}
	for _, object := range f.kube {
		meta := object.(metav1.Object)
		found[fmt.Sprintf("%T %s/%s", object, meta.GetNamespace(), meta.GetName())] = object
	}
	return found
}

func configsByKey(f *folder) map[string]config.Config {
	found := map[string]config.Config{}
	for _, one := range f.istio {
		found[one.Key()] = one
	}
	return found
}

type verb int

const (
	create verb = iota
	update
	remove
)

// writer is a typed client of one kind of objects.
type writer[T any] interface {
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

// writeKube writes an object of the kinds that live tests change; others are as they were at the start.
func writeKube(client kubernetes.Interface, object runtime.Object, how verb) error {
	switch one := object.(type) {
	case *corev1.Service:
		return write(client.CoreV1().Services(one.Namespace), one, one.Name, how)
	case *corev1.Pod:
		return write(client.CoreV1().Pods(one.Namespace), one, one.Name, how)
	case *corev1.Node:
		return write(client.CoreV1().Nodes(), one, one.Name, how)
	case *corev1.Namespace:
		return write(client.CoreV1().Namespaces(), one, one.Name, how)
	case *discoveryv1.EndpointSlice:
		return write(client.DiscoveryV1().EndpointSlices(one.Namespace), one, one.Name, how)
	}
	return nil
}

func write[T runtime.Object](w writer[T], object T, name string, how verb) error {
	// The fake client keeps what it is given.
	own := object.DeepCopyObject().(T)
	var err error
	switch how {
	case create:
		_, err = w.Create(context.Background(), own, metav1.CreateOptions{})
	case update:
		_, err = w.Update(context.Background(), own, metav1.UpdateOptions{})
	case remove:
		err = w.Delete(context.Background(), name, metav1.DeleteOptions{})
	}
	return err
}

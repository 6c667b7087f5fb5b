package main

import (
	"path/filepath"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"istio.io/istio/pkg/config/crd"
	"istio.io/istio/pkg/test/env"
)

// schemas holds the CRDs of Istio and of Gateway API as the API server has them, with their CEL rules.
var schemas = sync.OnceValues(func() (*crd.Validator, error) {
	files := []string{
		filepath.Join(env.IstioSrc, "manifests/charts/base/files/crd-all.gen.yaml"),
		filepath.Join(env.IstioSrc, "tests/integration/pilot/testdata/gateway-api-crd.yaml"),
	}
	validator, err := crd.NewValidatorFromFilesWithOptions(files, crd.WithoutCRDValidation())
	if err == nil {
		validator.SkipMissing = true
	}
	return validator, err
})

func checkSchema(object *unstructured.Unstructured) error {
	validator, err := schemas()
	if err != nil {
		return err
	}
	return validator.ValidateCustomResource(object)
}

package admission

import (
	"testing"

	"github.com/containerd/nri/pkg/api"
	validator "github.com/containerd/nri/plugins/default-validator"
)

// The runtime's own validator lets a pod's container begin with the plugins that it wants, and with
// no fewer.
func TestRequire(t *testing.T) {
	const spec = "spec: {containers: [{name: c}]}"
	for _, c := range []struct {
		name, pod  string
		lets, bars []string
	}{
		{"no annotation", "{metadata: {name: p}, " + spec + "}", []string{"ipcspace"}, []string{}},
		{"others", "{metadata: {annotations: {a: b}}, " + spec + "}", []string{"ipcspace"}, []string{"other"}},
		{"other plugins", `{metadata: {annotations: {required-plugins.noderesource.dev/pod: '["other"]'}}, ` + spec + "}", []string{"ipcspace", "other"}, []string{"other"}},
		{"other plugins, said shorter", "{metadata: {annotations: {required-plugins.noderesource.dev: '[ other ]'}}, " + spec + "}", []string{"ipcspace", "other"}, []string{"ipcspace"}},
		{"there already", "{metadata: {annotations: {required-plugins.noderesource.dev: '[ ipcspace ]'}}, " + spec + "}", []string{"ipcspace"}, []string{"other"}},
		{"for other containers", `{metadata: {annotations: {required-plugins.noderesource.dev/container.d: '["other"]'}}, ` + spec + "}", []string{"ipcspace"}, []string{"other"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			object := fromYAML(t, c.pod)
			for turn := range 2 {
				var p patch
				require(&p, parsePod(t, object), "ipcspace")
				if turn > 0 && len(p) > 0 {
					t.Errorf("a second turn patches again: %v", p)
				}
				object = apply(t, object, p)
			}
			begins := func(plugins []string) error {
				req := &api.ValidateContainerAdjustmentRequest{
					Pod:       &api.PodSandbox{Annotations: parsePod(t, object).Annotations},
					Container: &api.Container{Name: "c"},
				}
				for _, name := range plugins {
					req.AddPlugin(name, "10")
				}
				return validator.NewDefaultValidator(&validator.DefaultValidatorConfig{Enable: true}).ValidateContainerAdjustment(t.Context(), req)
			}
			if err := begins(c.lets); err != nil {
				t.Errorf("with %v: %v", c.lets, err)
			}
			if err := begins(c.bars); err == nil {
				t.Errorf("it begins with %v", c.bars)
			}
		})
	}
	var p patch
	require(&p, parsePod(t, fromYAML(t, "{"+spec+"}")), "")
	require(&p, parsePod(t, fromYAML(t, "{metadata: {annotations: {required-plugins.noderesource.dev: '{'}}, "+spec+"}")), "ipcspace")
	if len(p) > 0 {
		t.Errorf("patched: %v", p)
	}
}

package admission

import (
	"encoding/json"
	"slices"

	"github.com/containerd/nri/pkg/plugin"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// annotationRequired holds the names of NRI plugins as a list in JSON (the runtimes take YAML).
const annotationRequired = plugin.RequiredPluginsAnnotation + "/pod"

// require has a runtime whose validator is switched on refuse the pod's containers while it has no such
// plugin, instead of making them without what the plugin does: the kubelet then tries again. Others
// take no notice. A list that makes no sense is the author's, and the runtime's to complain of.
func require(p *patch, pod *corev1.Pod, name string) {
	if name == "" {
		return
	}
	text, ok := pod.Annotations[annotationRequired]
	if !ok { // what is said without /pod would not count any more
		text = pod.Annotations[plugin.RequiredPluginsAnnotation]
	}
	var names []string
	if yaml.Unmarshal([]byte(text), &names) != nil || slices.Contains(names, name) {
		return
	}
	value, err := json.Marshal(append(names, name))
	if err != nil {
		panic(err) //nolint:forbidigo // there are no strings that JSON has not
	}
	if len(pod.Annotations) == 0 {
		p.add("/metadata/annotations", map[string]string{annotationRequired: string(value)})
		return
	}
	p.add(pointer("metadata", "annotations", annotationRequired), string(value))
}

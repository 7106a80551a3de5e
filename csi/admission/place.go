package admission

import (
	"reflect"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// placement is where a pod may go: a space is on one node.
//
// It is a convenience. What is not placed by it, because the author chose the node or the webhook was
// away, is refused by the node's manager, which looks at the claim.
type placement struct {
	// node has what the space retains; "": the pods of the space draw each other.
	node string
	term corev1.PodAffinityTerm
}

// together has a pod go where others of the space are. The first of them meets its own label, which
// the scheduler accepts. allowed are the other namespaces that the space is for: no more pods than
// theirs count, for a label is anybody's to write.
func together(s space, podNamespace string, allowed []string) placement {
	term := corev1.PodAffinityTerm{
		TopologyKey:   corev1.LabelHostname,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{labelSpace: s.label()}},
	}
	switch {
	case slices.Contains(allowed, "*"):
		term.NamespaceSelector = &metav1.LabelSelector{}
	case len(allowed) > 0 || podNamespace != s.namespace:
		term.Namespaces = slices.Concat(allowed, []string{s.namespace, podNamespace})
		slices.Sort(term.Namespaces)
		term.Namespaces = slices.Compact(term.Namespaces)
	}
	return placement{term: term}
}

const required = "requiredDuringSchedulingIgnoredDuringExecution"

// require adds it to what the pod requires already.
func (at placement) require(p *patch, pod *corev1.Pod) {
	affinity := pod.Spec.Affinity
	if affinity == nil {
		affinity = &corev1.Affinity{}
		p.add("/spec/affinity", struct{}{})
	}
	if at.node != "" {
		at.requireNode(p, affinity.NodeAffinity)
		return
	}
	pods := affinity.PodAffinity
	if pods == nil {
		pods = &corev1.PodAffinity{}
		p.add("/spec/affinity/podAffinity", struct{}{})
	}
	for _, term := range pods.RequiredDuringSchedulingIgnoredDuringExecution {
		if reflect.DeepEqual(term, at.term) {
			return
		}
	}
	join(p, pointer("spec", "affinity", "podAffinity", required), len(pods.RequiredDuringSchedulingIgnoredDuringExecution), at.term)
}

// requireNode adds the node to each of the terms, any one of which is enough.
func (at placement) requireNode(p *patch, nodes *corev1.NodeAffinity) {
	is := corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{at.node}}
	if nodes == nil {
		nodes = &corev1.NodeAffinity{}
		p.add("/spec/affinity/nodeAffinity", struct{}{})
	}
	where := pointer("spec", "affinity", "nodeAffinity", required)
	selector := nodes.RequiredDuringSchedulingIgnoredDuringExecution
	if selector == nil || len(selector.NodeSelectorTerms) == 0 {
		p.add(where, corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{is}}}})
		return
	}
terms:
	for i, term := range selector.NodeSelectorTerms {
		for _, r := range term.MatchFields {
			if reflect.DeepEqual(r, is) {
				continue terms
			}
		}
		join(p, where+pointer("nodeSelectorTerms", strconv.Itoa(i), "matchFields"), len(term.MatchFields), is)
	}
}

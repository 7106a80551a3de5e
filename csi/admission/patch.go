package admission

import "strings"

// patch is a JSON patch (RFC 6902) that only adds: fields of a pod that this program does not know of
// stay as they are.
type patch []operation

type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// pointer makes a JSON pointer (RFC 6901).
func pointer(names ...string) string {
	var b strings.Builder
	for _, name := range names {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
	}
	return b.String()
}

func (p *patch) add(path string, value any) {
	*p = append(*p, operation{Op: "add", Path: path, Value: value})
}

// join adds value to the list at path, which has length elements, or is not there if it has none.
func join[T any](p *patch, path string, length int, value T) {
	if length == 0 {
		p.add(path, []T{value})
		return
	}
	p.add(path+"/-", value)
}

package e2e_test

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

// The API server writes down every request of the release's service accounts.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts:` + chartSpace + `"]}
- {level: None}
`

func auditLog() string { return filepath.Join(scratch, "audit.log") }

// request is one of them.
type request struct {
	Verb string
	User struct{ Username string }
	// Of the resource; Subresource may be empty.
	ObjectRef struct{ APIGroup, Resource, Subresource, Namespace, Name string }
	// HTTP's.
	ResponseStatus struct{ Code int }
}

// account is the service account's own name.
func (r request) account() string {
	return r.User.Username[strings.LastIndexByte(r.User.Username, ':')+1:]
}

// what is verb, group, resource and subresource in a line.
func (r request) what() string {
	resource := r.ObjectRef.Resource
	if r.ObjectRef.APIGroup != "" {
		resource += "." + r.ObjectRef.APIGroup
	}
	if r.ObjectRef.Subresource != "" {
		resource += "/" + r.ObjectRef.Subresource
	}
	return r.Verb + " " + resource
}

// requests is what came since an offset of the log, and the offset of its present end. A watch
// appears when it ends, so it may not be among them.
func requests(since int64) ([]request, int64, error) {
	file, err := os.Open(auditLog())
	if err != nil {
		return nil, since, err
	}
	defer file.Close()
	if _, err := file.Seek(since, 0); err != nil {
		return nil, since, err
	}
	var all []request
	reader := bufio.NewReader(file)
	for {
		line, err := reader.ReadBytes('\n')
		if err != nil {
			return all, since, nil // an unfinished line is read next time
		}
		since += int64(len(line))
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, since, err
		}
		all = append(all, r)
	}
}

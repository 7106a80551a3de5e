// Package admission is the webhook that gives annotated pods their space: the volume, its mounts, a
// label and an affinity to the node that has the space. It only spares authors the writing, and is not
// needed for safety: the node's manager decides, for every pod, who may join what and where.
package admission

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ipcspace/ipcspace/csi/cluster"
)

// Main is "ipcspace-csi webhook".
func Main(ctx context.Context, args []string) error {
	var level slog.Level
	flags := flag.NewFlagSet("ipcspace-csi webhook", flag.ContinueOnError)
	address := flags.String("listen", ":9443", "`address` of the HTTPS server: /mutate and /livez")
	certificate := flags.String("certificate", "/tls/tls.crt", "`file` of its certificate, read again when it changes")
	key := flags.String("key", "/tls/tls.key", "`file` of its key")
	plugin := flags.String("nri-plugin", "", "`name` of the NRI plugin without which no container of a pod with a space shall begin; empty: none")
	kubeconfig := flags.String("kubeconfig", "", "`file` that says where the API server is; empty: the pod's service account does")
	flags.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return err
	}
	client, err := cluster.Connect(*kubeconfig)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	h := &handler{spaces: &spaces{client: client, log: log}, plugin: *plugin, log: log}
	pair := &pair{certificate: *certificate, key: *key, log: h.log}
	if _, err := pair.get(nil); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	h.log.Info("serving", "address", listener.Addr())
	return serve(ctx, h, tls.NewListener(listener, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.get}), leavePatience)
}

const (
	// leavePatience is how long it goes on when it is to end: requests come until all know of its end.
	leavePatience = 5 * time.Second
	// stopPatience is how long requests under way may take then.
	stopPatience = 10 * time.Second
)

func serve(ctx context.Context, h *handler, listener net.Listener, leave time.Duration) error {
	mux := http.NewServeMux()
	mux.Handle("POST /mutate", h)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	server := &http.Server{
		Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug), // probes that hang up in the handshake
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		server.SetKeepAlivesEnabled(false)
		time.Sleep(leave) //nolint:forbidigo // nothing tells when all know of the end
		limit, cancel := context.WithTimeout(context.Background(), stopPatience)
		defer cancel()
		stopped <- server.Shutdown(limit)
	})
	err := server.Serve(listener)
	if stop() || !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// mostBody is more than the API server takes for an object.
const mostBody = 8 << 20

// handler answers admission reviews.
type handler struct {
	spaces *spaces
	plugin string // see require
	log    *slog.Logger
}

func (h *handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, mostBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil || review.Request == nil {
		http.Error(w, fmt.Sprintf("no admission review: %v", err), http.StatusBadRequest)
		return
	}
	review.Response = h.review(req.Context(), review.Request)
	review.Response.UID, review.Request = review.Request.UID, nil
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(review); err != nil {
		h.log.Warn("answer", "error", err)
	}
}

func (h *handler) review(ctx context.Context, req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	var pod, old corev1.Pod
	err := json.Unmarshal(req.Object.Raw, &pod)
	if err == nil && len(req.OldObject.Raw) > 0 {
		err = json.Unmarshal(req.OldObject.Raw, &old)
	}
	if err != nil {
		return h.denied(req, fmt.Errorf("the pod: %w", err))
	}
	w, err := read(&pod, req.Namespace)
	if err != nil {
		return h.denied(req, err)
	}
	response := &admissionv1.AdmissionResponse{Allowed: true}
	if w == nil {
		return response
	}
	var p patch
	if req.SubResource == "ephemeralcontainers" {
		p, response.Warnings = w.forEphemeral(&pod, &old)
	} else {
		response.Warnings = warnings(&pod)
		p = w.forNew(&pod, req.Namespace, h.spaces.placement(ctx, w.space, req.Namespace))
		require(&p, &pod, h.plugin)
	}
	if len(p) == 0 {
		return response
	}
	kind := admissionv1.PatchTypeJSONPatch
	response.PatchType = &kind
	if response.Patch, err = json.Marshal(p); err != nil {
		return h.denied(req, err)
	}
	h.log.Debug("patched", "namespace", req.Namespace, "name", req.Name, "space", w.space, "operations", len(p))
	return response
}

func (h *handler) denied(req *admissionv1.AdmissionRequest, err error) *admissionv1.AdmissionResponse {
	h.log.Info("denied", "namespace", req.Namespace, "name", req.Name, "user", req.UserInfo.Username, "error", err)
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid, Message: "ipcspace: " + err.Error(),
	}}
}

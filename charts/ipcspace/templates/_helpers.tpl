{{- define "ipcspace.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters: what is added to it must fit into a label. */}}
{{- define "ipcspace.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "ipcspace.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "ipcspace.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ipcspace.selector" -}}
app.kubernetes.io/name: {{ include "ipcspace.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ipcspace.labels" -}}
{{ include "ipcspace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end }}

{{- define "ipcspace.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "ipcspace.webhookSecret" -}}
{{- if eq .Values.webhook.certificate.source "secret" -}}
{{ .Values.webhook.certificate.secretName }}
{{- else -}}
{{ include "ipcspace.fullname" . }}-webhook-tls
{{- end -}}
{{- end }}

{{/* Path of the hook on the nodes; empty: there is none. */}}
{{- define "ipcspace.hook" -}}
{{- .Values.nri.hook | default (ternary "/opt/ipcspace/ipcspace-shim" "" .Values.nri.installHook) -}}
{{- end }}

{{/* What a container that is not privileged runs with. */}}
{{- define "ipcspace.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* What the schema cannot say. Each message names what to do. */}}
{{- define "ipcspace.validate" -}}
{{- $c := .Values.webhook.certificate }}
{{- if and .Values.webhook.enabled (eq $c.source "secret") }}
{{- if not $c.secretName }}
{{- fail "webhook.certificate.source is secret: set webhook.certificate.secretName to a Secret of the release's namespace with tls.crt and tls.key" }}
{{- end }}
{{- if not $c.caBundle }}
{{- fail "webhook.certificate.source is secret: set webhook.certificate.caBundle to the base64 of the CA's PEM, or the API server cannot trust the webhook" }}
{{- end }}
{{- end }}
{{- if and .Values.webhook.enabled (eq $c.source "certManager") (not (.Capabilities.APIVersions.Has "cert-manager.io/v1")) }}
{{- fail "webhook.certificate.source is certManager, and this cluster has no cert-manager.io/v1: install cert-manager first, or use webhook.certificate.source=generated" }}
{{- end }}
{{- if hasPrefix (printf "%s/" .Values.kubeletDir) (printf "%s/" .Values.root) }}
{{- fail "root lies in kubeletDir: the spaces need a folder of their own, such as /run/ipcspace" }}
{{- end }}
{{- if hasPrefix (printf "%s/" .Values.root) (printf "%s/" .Values.kubeletDir) }}
{{- fail "kubeletDir lies in root: the spaces need a folder of their own, such as /run/ipcspace" }}
{{- end }}
{{- if and .Values.nri.hook (not .Values.nri.enabled) }}
{{- fail "nri.hook is set and nri.enabled is false: the hook is the plugin's; set nri.enabled=true or drop nri.hook" }}
{{- end }}
{{- $name := include "ipcspace.fullname" . }}
{{- if and .Values.webhook.enabled (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name)) }}
{{- fail (printf "%s-webhook cannot be the name of a Service, which begins with a letter and has no dots: set fullnameOverride, such as ipcspace, or choose another name for the release" $name) }}
{{- end }}
{{- $own := include "ipcspace.labels" . | fromYaml | keys | concat (list "app.kubernetes.io/component") }}
{{- range $part, $labels := dict "node" .Values.node.podLabels "webhook" .Values.webhook.podLabels }}
{{- range $label, $_ := $labels }}
{{- if has $label $own }}
{{- fail (printf "%s.podLabels has %s, which the chart sets itself, and finds its pods by such: drop it" $part $label) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "decant.name" -}}
{{- default .Chart.Name .Values.name_override | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* As OVMS's chart does with "ovms"; a release of it keeps its Service's name. */}}
{{- define "decant.fullname" -}}
{{- $name := include "decant.name" . -}}
{{- if .Values.fullname_override -}}
{{- .Values.fullname_override | trunc 63 | trimSuffix "-" -}}
{{- else if or (contains $name .Release.Name) (contains "ovms" .Release.Name) -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "decant.selector" -}}
app.kubernetes.io/name: {{ include "decant.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "decant.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "decant.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "decant.metadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "decant.labels" . | nindent 2 }}
{{- end -}}

{{- define "decant.image" -}}
{{- default (printf "decant:%s" .Chart.AppVersion) .Values.image_name -}}
{{- end -}}

{{- define "decant.service_account" -}}
{{- if .Values.service_account.create -}}
{{- default (include "decant.fullname" .) .Values.service_account.name -}}
{{- else -}}
{{- default "default" .Values.service_account.name -}}
{{- end -}}
{{- end -}}

{{/* The fields of security_context that only a container has, and the rest, which the pod has. */}}
{{- define "decant.container_security" -}}
{{- toYaml (pick .Values.security_context "allowPrivilegeEscalation" "capabilities" "privileged" "procMount" "readOnlyRootFilesystem") -}}
{{- end -}}

{{- define "decant.pod_security" -}}
{{- toYaml (omit .Values.security_context "allowPrivilegeEscalation" "capabilities" "privileged" "procMount" "readOnlyRootFilesystem") -}}
{{- end -}}

{{- define "decant.secret" -}}
{{- if or .Values.aws_access_key_id .Values.aws_secret_access_key .Values.azure_storage_connection_string -}}
{{- include "decant.fullname" . -}}
{{- end -}}
{{- end -}}

{{- define "decant.has_metrics" -}}
{{- if or .Values.metrics_enable .Values.service_monitor.enabled (and .Values.keda.enabled .Values.keda.prometheus.server_address) -}}
true
{{- end -}}
{{- end -}}

{{/* Nine tenths of a quantity, in bytes. */}}
{{- define "decant.most_of" -}}
{{- $units := dict "" 1.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9.]+" $text -}}
{{- mulf (float64 $number) (get $units (trimPrefix $number $text)) 0.9 | floor | int64 -}}
{{- end -}}

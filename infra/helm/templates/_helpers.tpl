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
app.kubernetes.io/name: {{ include "decant.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "decant.labels" -}}
{{- $chart := printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- dict "helm.sh/chart" $chart "app.kubernetes.io/name" (include "decant.name" .) "app.kubernetes.io/instance" .Release.Name "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/managed-by" .Release.Service | toYaml -}}
{{- end -}}

{{/* Of a list of the root and further labels: each once, and those that the chart finds its objects by as they have to
be, whatever the values say. */}}
{{- define "decant.metadata" -}}
{{- $root := index . 0 -}}
namespace: {{ $root.Release.Namespace | quote }}
labels:
  {{- merge (dict) (index . 1) (include "decant.labels" $root | fromYaml) (default dict $root.Values.labels) | toYaml | nindent 2 }}
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

{{/* As in values.yaml, whose values are not here if all of it is null: what is commented out there is not to be less. */}}
{{- define "decant.security_context" -}}
{{- if kindIs "map" .Values.security_context -}}
{{- toYaml .Values.security_context -}}
{{- else -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
{{- end -}}

{{/* The fields of security_context that only a container has, and the rest, which the pod has. */}}
{{- define "decant.container_security" -}}
{{- toYaml (pick (include "decant.security_context" . | fromYaml) "allowPrivilegeEscalation" "capabilities" "privileged" "procMount" "readOnlyRootFilesystem") -}}
{{- end -}}

{{- define "decant.pod_security" -}}
{{- toYaml (omit (include "decant.security_context" . | fromYaml) "allowPrivilegeEscalation" "capabilities" "privileged" "procMount" "readOnlyRootFilesystem") -}}
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

{{/* Nine tenths of the least of some quantities, in bytes. */}}
{{- define "decant.most_of" -}}
{{- $units := dict "m" 1e-3 "" 1.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- $least := 0 -}}
{{- range $text := . -}}
{{- $number := regexFind "^[0-9.]+([eE][0-9]+)?" $text -}}
{{- $bytes := mulf (float64 $number) (get $units (trimPrefix $number $text)) 0.9 | floor | int64 -}}
{{- $least = ternary $bytes $least (or (eq $least 0) (lt $bytes (int64 $least))) -}}
{{- end -}}
{{- $least -}}
{{- end -}}

{{/* With an autoscaler the number of pods that there are: what a release no longer says becomes 1, if it did before. */}}
{{- define "decant.replicas" -}}
{{- if not (or .Values.hpa.enabled .Values.keda.enabled) -}}
{{- .Values.replicas -}}
{{- else -}}
{{- with lookup "apps/v1" "Deployment" .Release.Namespace (include "decant.fullname" .) -}}
{{- $scale := ternary $.Values.hpa $.Values.keda $.Values.hpa.enabled -}}
{{- max (int $scale.min_replicas) (min (int $scale.max_replicas) (int .spec.replicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether the cache's volume is on one node at a time. */}}
{{- define "decant.is_on_one_node" -}}
{{- if and (eq .Values.cache.kind "claim") (not (has "ReadWriteMany" .Values.cache.access_modes)) -}}
true
{{- end -}}
{{- end -}}

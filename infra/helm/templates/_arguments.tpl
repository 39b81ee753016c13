{{/* A flag's text. Numbers as JSON has them, as toString makes 1e+06 of a million; quotes that were escaped for OVMS's
chart, which pasted values between quotes of its own, are quotes. */}}
{{- define "decant.text" -}}
{{- if kindIs "string" . -}}
{{- replace "\\\"" "\"" . -}}
{{- else if kindIs "slice" . -}}
{{- join "," . -}}
{{- else -}}
{{- mustToRawJson . -}}
{{- end -}}
{{- end -}}

{{/* Of a values.yaml with several of them the same as OVMS's chart. */}}
{{- define "decant.config_path" -}}
{{- if .Values.config_path -}}
{{- .Values.config_path -}}
{{- else if or .Values.config .Values.config_configmap_name -}}
/config/config.json
{{- end -}}
{{- end -}}

{{/* The one that helm test and the notes ask for, if there is one. */}}
{{- define "decant.model" -}}
{{- default (ternary "" .Values.model_name (not (empty (include "decant.config_path" .)))) .Values.test.model -}}
{{- end -}}

{{/* What the server and `pull` are both told. */}}
{{- define "decant.cache_arguments" -}}
{{- $arguments := list "--cache_dir=/cache" (printf "--log_level=%s" .Values.log_level) -}}
{{- $settings := default dict .Values.settings -}}
{{- if and (eq .Values.cache.kind "empty_dir") (ne (toString .Values.cache.medium) "Memory") (not (hasKey $settings "disk_budget")) -}}
{{- $sizes := list .Values.cache.size -}}
{{- with dig "limits" "ephemeral-storage" nil (default dict .Values.resources) -}}
{{- $sizes = append $sizes (include "decant.text" .) -}}
{{- end -}}
{{- $arguments = append $arguments (printf "--disk_budget=%s" (include "decant.most_of" $sizes)) -}}
{{- end -}}
{{- range $name := list "disk_budget" "ready_marker" "s3_endpoint" "storage_client" "storage_anonymous" -}}
{{- if hasKey $settings $name -}}
{{- $arguments = append $arguments (printf "--%s=%s" $name (include "decant.text" (get $settings $name))) -}}
{{- end -}}
{{- end -}}
{{- toYaml $arguments -}}
{{- end -}}

{{- define "decant.pull_arguments" -}}
- pull
{{- with include "decant.config_path" . }}
- {{ printf "--config_path=%s" . | quote }}
{{- else }}
- {{ .Values.model_path | quote }}
{{- with .Values.model_version_policy }}
- {{ printf "--model_version_policy=%s" (include "decant.text" .) | quote }}
{{- end }}
{{- end }}
{{ include "decant.cache_arguments" . }}
{{- end -}}

{{/* OVMS's answers of gRPC are in tensor_content, and clients that were written for it may look nowhere else. */}}
{{- define "decant.arguments" -}}
{{- $values := .Values -}}
{{- $flags := dict "enable_serialization_as_tensor_content" true -}}
{{- $names := list "enable_serialization_as_tensor_content" -}}
{{- with include "decant.config_path" . -}}
{{- $_ := set $flags "config_path" . -}}
{{- $names = append $names "config_path" -}}
{{- else -}}
{{- range $name := list "model_name" "model_path" "target_device" "nireq" "batch_size" "layout" "shape" "model_version_policy" "plugin_config" -}}
{{- $_ := set $flags $name (get $values $name) -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- if not (has (toString $values.stateful) (list "" "false" "<nil>")) -}}
{{- $_ := set $flags "stateful" true -}}
{{- $names = append $names "stateful" -}}
{{- range $name := list "idle_sequence_cleanup" "low_latency_transformation" "max_sequence_number" -}}
{{- $_ := set $flags $name (get $values $name) -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $_ := set $flags "port" .Values.grpc_port -}}
{{- $_ := set $flags "rest_port" .Values.rest_port -}}
{{- $_ := set $flags "file_system_poll_wait_seconds" .Values.file_system_poll_wait_seconds -}}
{{- $_ := set $flags "shutdown_timeout" .Values.shutdown_timeout -}}
{{- $_ := set $flags "metrics_list" .Values.metrics_list -}}
{{- if include "decant.has_metrics" . -}}
{{- $_ := set $flags "metrics_enable" true -}}
{{- end -}}
{{- $names = concat $names (list "port" "rest_port" "file_system_poll_wait_seconds" "shutdown_timeout" "metrics_enable" "metrics_list") -}}
{{- range $name, $value := omit (default dict .Values.settings) "disk_budget" "ready_marker" "s3_endpoint" "storage_client" "storage_anonymous" -}}
{{- $_ := set $flags $name $value -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- $arguments := list "serve" -}}
{{- range $name := uniq $names -}}
{{- $value := get $flags $name -}}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "") (eq (toString $value) "map[]")) -}}
{{- $arguments = append $arguments (printf "--%s=%s" $name (include "decant.text" $value)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $arguments }}
{{ include "decant.cache_arguments" . }}
{{- with .Values.extra_args }}
{{ toYaml . }}
{{- end }}
{{- end -}}

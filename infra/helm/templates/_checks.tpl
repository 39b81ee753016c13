{{/* What a schema cannot say, or not so that it can be read. */}}
{{- define "decant.check" -}}
{{- $what := list -}}
{{- range $name := list "model_path" "config_path" "config_configmap_name" "config" -}}
{{- if get $.Values $name -}}
{{- $what = append $what $name -}}
{{- end -}}
{{- end -}}
{{- if not $what -}}
{{- fail "nothing to serve: set model_path (s3://bucket/prefix, gs://…, az://container/prefix or /models/…) and model_name, or one of config, config_configmap_name, config_path" -}}
{{- else if gt (len $what) 1 -}}
{{- fail (printf "set only one of what to serve, not %s" (join " and " $what)) -}}
{{- end -}}
{{- if and .Values.model_path (not .Values.model_name) -}}
{{- fail "model_path needs model_name: what clients call the model" -}}
{{- end -}}
{{- $volumes := list -}}
{{- range $name := list "models_host_path" "models_volume_claim" "models_image" -}}
{{- if get $.Values $name -}}
{{- $volumes = append $volumes $name -}}
{{- end -}}
{{- end -}}
{{- if gt (len $volumes) 1 -}}
{{- fail (printf "only one of them can be at /models, not %s" (join " and " $volumes)) -}}
{{- end -}}
{{- if eq (int .Values.grpc_port) (int .Values.rest_port) -}}
{{- fail (printf "grpc_port and rest_port are both %d" (int .Values.rest_port)) -}}
{{- end -}}
{{- if and .Values.hpa.enabled .Values.keda.enabled -}}
{{- fail "enable hpa or keda, not both: KEDA makes a HorizontalPodAutoscaler itself" -}}
{{- end -}}
{{- if .Values.hpa.enabled -}}
{{- if not (or .Values.hpa.cpu_percent .Values.hpa.memory_percent .Values.hpa.metrics) -}}
{{- fail "hpa has nothing to go by: set hpa.cpu_percent, hpa.memory_percent or hpa.metrics" -}}
{{- end -}}
{{- range $name := list "cpu" "memory" -}}
{{- if get $.Values.hpa (printf "%s_percent" $name) -}}
{{- $asked := merge (dict) (default (dict) $.Values.resources.requests) (default (dict) $.Values.resources.limits) -}}
{{- if not (get $asked $name) -}}
{{- fail (printf "hpa.%s_percent is of resources.requests.%s, which is not set" $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.keda.enabled -}}
{{- if not (or .Values.keda.prometheus.server_address .Values.keda.triggers) -}}
{{- fail "keda has nothing to go by: set keda.prometheus.server_address or keda.triggers" -}}
{{- end -}}
{{- if and (eq (int .Values.keda.min_replicas) 0) (not .Values.keda.triggers) -}}
{{- fail "keda.min_replicas 0 needs one of keda.triggers that counts requests ahead of the pods, such as those of the ingress: with no pod there are no metrics of pods, and nothing would start one" -}}
{{- end -}}
{{- end -}}
{{- range $kind := list "hpa" "keda" -}}
{{- $scale := get $.Values $kind -}}
{{- if and $scale.enabled (gt (int $scale.min_replicas) (int $scale.max_replicas)) -}}
{{- fail (printf "%s.min_replicas %d is more than %s.max_replicas %d" $kind (int $scale.min_replicas) $kind (int $scale.max_replicas)) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "ingress" "grpc_ingress" -}}
{{- $ingress := get $.Values $name -}}
{{- if and $ingress.enabled (not $ingress.hosts) -}}
{{- fail (printf "%s is enabled and has no hosts" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.parent_refs) -}}
{{- fail "gateway is enabled and has no parent_refs: name the Gateway" -}}
{{- end -}}
{{- if and (eq (int .Values.grpc_port) 0) (or .Values.grpc_ingress.enabled (and .Values.gateway.enabled .Values.gateway.grpc_hostnames)) -}}
{{- fail "grpc_port is 0, so there is no gRPC that grpc_ingress or gateway.grpc_hostnames could lead to" -}}
{{- end -}}
{{- end -}}

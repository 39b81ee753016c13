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
{{- else if and (has "config" $what) (gt (len $what) 1) -}}
{{- fail (printf "set only one of what to serve, not %s" (join " and " $what)) -}}
{{- end -}}
{{- if and (eq (join "" $what) "model_path") (not .Values.model_name) -}}
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
{{- $resources := default dict .Values.resources -}}
{{- range $name := list "cpu" "memory" -}}
{{- if get $.Values.hpa (printf "%s_percent" $name) -}}
{{- $asked := merge (dict) (dig "requests" dict $resources) (dig "limits" dict $resources) -}}
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
{{- $metrics := .Values.metrics_list | default "" | nospace | splitList "," | compact -}}
{{- if and .Values.keda.prometheus.server_address (not .Values.keda.prometheus.query) $metrics (not (has "ovms_current_requests" $metrics)) -}}
{{- fail "keda.prometheus asks for ovms_current_requests, which metrics_list leaves out: add it, or set keda.prometheus.query" -}}
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
{{- if include "decant.is_on_one_node" . -}}
{{- $most := int .Values.replicas -}}
{{- range $scale := list .Values.hpa .Values.keda -}}
{{- if $scale.enabled -}}
{{- $most = int $scale.max_replicas -}}
{{- end -}}
{{- end -}}
{{- if and (gt $most 1) (not .Values.affinity) -}}
{{- fail (printf "the claim of cache is %s, so on one node at a time, and there may be %d pods: want cache.access_modes [ReadWriteMany], cache.kind ephemeral, one pod, or an affinity that has all of them on one node" (join " and " .Values.cache.access_modes) $most) -}}
{{- end -}}
{{- end -}}
{{- if not .Values.service_account.create -}}
{{- range $name, $who := .Values.workload_identity -}}
{{- if $who -}}
{{- fail (printf "service_account.create is false, so workload_identity.%s has no account that it could be written into: annotate yours (on Azure, also set pod_labels: {azure.workload.identity/use: \"true\"}) and leave it out" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.pdb.enabled (kindIs "invalid" .Values.pdb.min_available) (kindIs "invalid" .Values.pdb.max_unavailable) -}}
{{- fail "pdb is enabled and has neither min_available nor max_unavailable" -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]" (include "decant.fullname" .)) -}}
{{- fail (printf "the Service would be called %s; want fullname_override, or a release, that begins with a letter" (include "decant.fullname" .)) -}}
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

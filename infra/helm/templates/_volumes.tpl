{{- define "decant.claim_spec" -}}
accessModes:
  {{- toYaml .Values.cache.access_modes | nindent 2 }}
{{- with .Values.cache.storage_class }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests:
    storage: {{ .Values.cache.size | quote }}
{{- end -}}

{{- define "decant.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
- name: cache
  {{- if eq .Values.cache.kind "empty_dir" }}
  emptyDir:
    sizeLimit: {{ .Values.cache.size | quote }}
    {{- with .Values.cache.medium }}
    medium: {{ . }}
    {{- end }}
  {{- else if eq .Values.cache.kind "ephemeral" }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        {{- include "decant.claim_spec" . | nindent 8 }}
  {{- else }}
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-cache" (include "decant.fullname" .)) .Values.cache.existing_claim | quote }}
  {{- end }}
{{- if .Values.models_host_path }}
- name: models
  hostPath:
    path: {{ .Values.models_host_path | quote }}
    type: Directory
{{- else if .Values.models_volume_claim }}
- name: models
  persistentVolumeClaim:
    claimName: {{ .Values.models_volume_claim | quote }}
    readOnly: true
{{- else if .Values.models_image }}
- name: models
  image:
    reference: {{ .Values.models_image | quote }}
    {{- with .Values.image_pull_policy }}
    pullPolicy: {{ . }}
    {{- end }}
{{- end }}
{{- if or .Values.config .Values.config_configmap_name }}
- name: config
  configMap:
    name: {{ default (include "decant.fullname" .) .Values.config_configmap_name | quote }}
{{- end }}
{{- with .Values.gcp_creds_secret_name }}
- name: gcp-creds
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
{{- end }}
{{- with .Values.extra_volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Of directories whole: a subPath would never see another version of a ConfigMap. */}}
{{- define "decant.volume_mounts" -}}
- name: tmp
  mountPath: /tmp
- name: cache
  mountPath: /cache
{{- if or .Values.models_host_path .Values.models_volume_claim .Values.models_image }}
- name: models
  mountPath: /models
  readOnly: true
{{- end }}
{{- if or .Values.config .Values.config_configmap_name }}
- name: config
  mountPath: /config
  readOnly: true
{{- end }}
{{- if .Values.gcp_creds_secret_name }}
- name: gcp-creds
  mountPath: /secret
  readOnly: true
{{- end }}
{{- with .Values.extra_volume_mounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

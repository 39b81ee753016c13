{{- define "decant.environment" -}}
{{- $variables := dict "AWS_REGION" .Values.aws_region "S3_ENDPOINT" .Values.s3_compat_api_endpoint "AZURE_STORAGE_ACCOUNT" .Values.azure_storage_account "http_proxy" .Values.http_proxy "https_proxy" .Values.https_proxy "no_proxy" .Values.no_proxy -}}
{{- if .Values.gcp_creds_secret_name -}}
{{- $_ := set $variables "GOOGLE_APPLICATION_CREDENTIALS" (printf "/secret/%s" .Values.gcp_creds_secret_key) -}}
{{- end -}}
{{- $given := list -}}
{{- range $name, $value := $variables -}}
{{- if $value -}}
{{- $given = append $given (dict "name" $name "value" $value) -}}
{{- end -}}
{{- end -}}
{{- with concat $given (default list .Values.extra_env) -}}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $secrets := compact (list (include "decant.secret" .) .Values.existing_secret) }}
{{- if or $secrets .Values.extra_env_from }}
envFrom:
  {{- range $secrets }}
  - secretRef:
      name: {{ . | quote }}
  {{- end }}
  {{- with .Values.extra_env_from }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Amounts as text: a number, which people write, is refused by servers that Helm sends it to as it is. */}}
{{- define "decant.resources" -}}
{{- $resources := dict -}}
{{- range $name, $value := .Values.resources -}}
{{- if kindIs "map" $value -}}
{{- $amounts := dict -}}
{{- range $what, $amount := $value -}}
{{- if not (kindIs "invalid" $amount) -}}
{{- $_ := set $amounts $what (include "decant.text" $amount) -}}
{{- end -}}
{{- end -}}
{{- $value = $amounts -}}
{{- end -}}
{{- $_ := set $resources $name $value -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* What is the same of the server and of what fetches models for it. */}}
{{- define "decant.container" -}}
image: {{ include "decant.image" . | quote }}
{{- with .Values.image_pull_policy }}
imagePullPolicy: {{ . }}
{{- end }}
securityContext:
  {{- include "decant.container_security" . | nindent 2 }}
{{- with include "decant.environment" . | trim }}
{{ . }}
{{- end }}
{{- if .Values.resources }}
resources:
  {{- include "decant.resources" . | nindent 2 }}
{{- end }}
volumeMounts:
  {{- include "decant.volume_mounts" . | nindent 2 }}
{{- end -}}

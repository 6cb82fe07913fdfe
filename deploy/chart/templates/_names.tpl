{{- define "vitrail.selector" -}}
app.kubernetes.io/name: vitrail
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Of pods: nothing that changes with the chart alone, since pods are replaced when their labels change. */ -}}
{{- define "vitrail.podLabels" -}}
{{ include "vitrail.selector" . }}
app.kubernetes.io/version: {{ include "vitrail.tag" . | quote }}
{{- end }}

{{- define "vitrail.labels" -}}
{{ include "vitrail.podLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: vitrail-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "vitrail.tag" -}}
{{ .Values.images.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* A list of root and the key of .Values.images. */ -}}
{{- define "vitrail.image" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.images.registry }}{{ . }}/{{ end }}{{ get $root.Values.images (index . 1) }}:{{ include "vitrail.tag" $root }}
{{- end }}

{{- define "vitrail.serviceAccount" -}}
{{ .Values.serviceAccount.name | default .Release.Name }}
{{- end }}

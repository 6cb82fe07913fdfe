{{- /* A Job is never changed: another spec is another Job, by a hash in its name. A list of root, name, spec. */ -}}
{{- define "vitrail.job" -}}
{{- $root := index . 0 }}{{ $spec := index . 2 -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $root.Release.Name }}-{{ index . 1 }}-{{ sha256sum $spec | trunc 8 }}
  labels: {{ include "vitrail.labels" $root | nindent 4 }}
spec: {{ $spec | nindent 2 }}
{{- end }}

{{- /* What the schema cannot see: relations between values, and what runs. Each refusal names the value. */ -}}
{{- define "vitrail.check" -}}
{{- if or (gt (len .Release.Name) 30) (contains "." .Release.Name) }}
{{- fail (printf "the release's name %q: at most 30 letters, digits and dashes, since names of objects begin with it" .Release.Name) }}
{{- end }}
{{- $nodes := .Values.nodes | int }}
{{- if not $nodes }}
{{- range (lookup "v1" "Node" "" "").items }}
{{- $node := . }}
{{- $fits := true }}
{{- range $key, $value := $.Values.shard.nodeSelector }}
{{- if ne (get ($node.metadata.labels | default dict) $key) $value }}{{ $fits = false }}{{ end }}
{{- end }}
{{- if $fits }}{{ $nodes = add1 $nodes }}{{ end }}
{{- end }}
{{- end }}
{{- if and $nodes (gt (int .Values.replicas) (int $nodes)) }}
{{- fail (printf "replicas: %d processes of a shard need as many nodes, and there are %d" (int .Values.replicas) (int $nodes)) }}
{{- end }}
{{- with .Values.coordinator.autoscaling }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail (printf "coordinator.autoscaling.minReplicas: %d is above maxReplicas, %d" (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- end }}
{{- if gt (int .Values.index.parallelism) (int .Values.index.parts) }}
{{- fail (printf "index.parallelism: %d is above parts, %d" (int .Values.index.parallelism) (int .Values.index.parts)) }}
{{- end }}
{{- if .Values.index.enabled }}
{{- range list "url" "collection" }}
{{- if not (get $.Values.index .) }}{{ fail (printf "index.%s: is missing" .) }}{{ end }}
{{- end }}
{{- end }}
{{- include "vitrail.checkLayouts" . }}
{{- end }}

{{- /* A layout leaves only when the wanted one runs: where it is deleted before, searches find nothing. */ -}}
{{- define "vitrail.checkLayouts" -}}
{{- $wanted := last .Values.shards | int }}
{{- $leaving := dict }}
{{- $ready := 0 }}
{{- range (lookup "apps/v1" "StatefulSet" .Release.Namespace "").items }}
{{- $labels := .metadata.labels | default dict }}
{{- if and (eq (get $labels "app.kubernetes.io/name") "vitrail") (eq (get $labels "app.kubernetes.io/instance") $.Release.Name) }}
{{- $layout := get $labels "vitrail.dev/layout" }}
{{- if not (has $layout ($.Values.shards | toStrings)) }}{{ $_ := set $leaving $layout true }}{{ end }}
{{- if and (eq $layout (toString $wanted)) (gt (int .status.readyReplicas) 0) }}{{ $ready = add1 $ready }}{{ end }}
{{- end }}
{{- end }}
{{- if and $leaving (lt (int $ready) $wanted) }}
{{- $gone := keys $leaving | sortAlpha | join ", " }}
{{- fail (printf "shards: %d of %d shards of the wanted layout are ready, so %s cannot leave yet: add the new layout at the end of the list, and remove the old one when `vitrail shards` says that the new one serves" (int $ready) $wanted $gone) }}
{{- end }}
{{- end }}

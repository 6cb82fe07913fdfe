{{- define "vitrail.pod" -}}
serviceAccountName: {{ include "vitrail.serviceAccount" . | quote }}
automountServiceAccountToken: false
# Of a Service called vitrail Kubernetes would make VITRAIL_PORT=tcp://…
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Where a pod may run: of its values. */ -}}
{{- define "vitrail.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := .tolerations }}
{{- if (.gpu).count }}
{{- $tolerations = append $tolerations (dict "key" .gpu.resource "operator" "Exists" "effect" "NoSchedule") }}
{{- with .gpu.runtimeClass }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- end }}
{{- with $tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClass }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{- /* By zone where it can be, and by node: a list of labels in YAML, and whether no two of these pods may share one. */ -}}
{{- define "vitrail.spread" -}}
topologySpreadConstraints:
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: {{ ternary "DoNotSchedule" "ScheduleAnyway" (and (index $ 1) (hasPrefix "kubernetes.io" .)) }}
    nodeTaintsPolicy: Honor
    labelSelector:
      matchLabels: {{ index $ 0 | nindent 8 }}
    {{- if not (index $ 1) }}
    # Those of another version are on their way out.
    matchLabelKeys: [pod-template-hash]
    {{- end }}
{{- end }}
{{- end }}

{{- define "vitrail.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- /* What a process of the cluster is told: root, its values, its ports. */ -}}
{{- define "vitrail.environment" -}}
{{- $root := index . 0 }}{{ $values := index . 1 -}}
- name: VITRAIL_HOST
  valueFrom:
    fieldRef: {fieldPath: status.podIP}
- {name: VITRAIL_PORT, value: {{ index . 2 | quote }}}
- {name: VITRAIL_METRICS_PORT, value: {{ index . 3 | quote }}}
- {name: VITRAIL_SETTLE_SECONDS, value: {{ $root.Values.life.settle | quote }}}
- {name: VITRAIL_DRAIN_SECONDS, value: {{ $root.Values.life.drain | quote }}}
- {name: VITRAIL_LOG_FORMAT, value: json}
{{- with $root.Values.monitoring.traces }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- range $name, $value := $values.settings }}
- {name: VITRAIL_{{ upper $name }}, value: {{ include "vitrail.plain" $value | quote }}}
{{- end }}
{{- end }}

{{- /* A number as one writes it: those of values are floats, and large ones print as 3.3e+07. */ -}}
{{- define "vitrail.plain" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "vitrail.secrets" -}}
{{- with . }}
envFrom:
  {{- range . }}
  - secretRef: {name: {{ . | quote }}}
  {{- end }}
{{- end }}
{{- end }}

{{- define "vitrail.storeUrl" -}}
- name: VITRAIL_STORE
  valueFrom:
    secretKeyRef: {name: {{ .Values.store.secret.name | quote }}, key: {{ .Values.store.secret.key | quote }}}
{{- end }}

{{- /* What the values ask for, with the GPUs, and with the node's disk where it takes much of that. */ -}}
{{- define "vitrail.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if eq (dig "storage" "type" "" .) "ephemeral" }}
{{- $_ := set $resources.requests "ephemeral-storage" .storage.size }}
{{- end -}}
{{- if (.gpu).count }}
{{- $_ := set $resources "limits" (merge (dict .gpu.resource .gpu.count) ($resources.limits | default dict)) }}
{{- end -}}
resources: {{ toYaml $resources | nindent 2 }}
{{- end }}

{{- /* The three questions of Kubernetes to one port: a list of the port and how often the second may fail. */ -}}
{{- define "vitrail.probes" -}}
livenessProbe:
  grpc: {port: {{ index . 0 }}, service: live}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
startupProbe:
  grpc: {port: {{ index . 0 }}, service: started}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ index . 1 }}
readinessProbe:
  grpc: {port: {{ index . 0 }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}

{{- define "vitrail.temporary" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- end }}

-- How long each request waited in the engine's queue, and how long its first token took.
SELECT
  window.label,
  window.request,
  window.dur AS ttft_ns,
  coalesce(sum(path.dur), 0) AS queue_ns
FROM slmtrace_window AS window
LEFT JOIN slmtrace_path AS path
  ON path.label = window.label AND path.stage = 'queue'
WHERE window.label GLOB 'ttft*'
GROUP BY window.id
ORDER BY window.ts;

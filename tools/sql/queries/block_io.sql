-- Block requests by device and size: latencies of what the load read.
SELECT
  lane AS device,
  io.name AS request,
  count(*) AS requests,
  cast(avg(io.dur) AS INT) AS mean_ns,
  max(io.dur) AS worst_ns
FROM slmtrace_within!(slmtrace_slice, 'load') AS io
WHERE io.category = 'block'
GROUP BY device, request
ORDER BY requests DESC
LIMIT 20;

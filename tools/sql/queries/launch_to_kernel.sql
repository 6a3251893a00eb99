-- From each launch to the start of its kernel: a GPU that is behind, or a host that is.
SELECT
  kernel.name AS kernel,
  count(*) AS launches,
  cast(avg(kernel.ts - launch.ts) AS INT) AS mean_delay_ns,
  max(kernel.ts - launch.ts) AS worst_delay_ns,
  sum(kernel.dur) AS kernel_ns
FROM flow
JOIN slice AS launch ON flow.slice_out = launch.id
JOIN slice AS kernel ON flow.slice_in = kernel.id
WHERE launch.category = 'cuda' AND kernel.category = 'gpu'
GROUP BY kernel.name
ORDER BY kernel_ns DESC
LIMIT 20;

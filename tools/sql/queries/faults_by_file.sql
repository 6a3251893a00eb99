-- The slowest page faults by file: how many, how long together, how long the worst one.
SELECT
  substr(name, instr(name, ': ') + 2) AS file,
  substr(name, 1, instr(name, ': ') - 1) AS kind,
  count(*) AS faults,
  sum(dur) AS ns,
  max(dur) AS worst_ns
FROM slmtrace_slice
WHERE lane = 'page faults'
GROUP BY file, kind
ORDER BY ns DESC
LIMIT 20;

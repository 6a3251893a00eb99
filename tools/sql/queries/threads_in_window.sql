-- What the threads did while the first request waited for its first token: their states, cut to the window.
SELECT
  process.name AS process,
  thread.name AS thread,
  states.state,
  sum(states.cut_dur) AS ns
FROM slmtrace_within!(thread_state, 'ttft 0') AS states
JOIN thread USING (utid)
LEFT JOIN process USING (upid)
GROUP BY utid, states.state
ORDER BY ns DESC
LIMIT 20;

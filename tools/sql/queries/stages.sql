-- Stage by cause in the load: where to look first.
SELECT stage, phase || '.' || cause AS cause, sum(dur) AS ns, count(*) AS stretches
FROM slmtrace_path
WHERE label = 'load'
GROUP BY stage, cause
ORDER BY ns DESC
LIMIT 20;

-- Time by phase in every window.
SELECT label, phase, sum(dur) AS ns
FROM slmtrace_path
GROUP BY label, phase
ORDER BY label, ns DESC;

/* Empty: bcc's preamble includes it and needs nothing of it. */

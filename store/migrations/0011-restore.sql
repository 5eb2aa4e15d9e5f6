-- Up Migration

-- How often this database was put back from a backup, and an operator said so (npm run after-restore): one row.
CREATE TABLE database_generation (
  single     boolean PRIMARY KEY DEFAULT true CHECK (single),
  generation bigint  NOT NULL
);
INSERT INTO database_generation (generation) VALUES (0);

-- The generation in which a pair's states were written. Those of an earlier one only receive.
ALTER TABLE messaging_sessions ADD COLUMN generation bigint NOT NULL DEFAULT 0;

-- Null: the envelope was brought back from the log after a restore, and what the command said is not known until it is read again.
ALTER TABLE messaging_commands ALTER COLUMN hmac DROP NOT NULL;

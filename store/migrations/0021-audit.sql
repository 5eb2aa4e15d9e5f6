-- Up Migration

-- The head of the Merkle log of audit records: how many there are, and the hashes of the tree's perfect subtrees, the largest first (protocol/audit/merkle.ts).
-- One row, and the lock under which records get their places. grown_at: when it last grew, by this database's clock.
CREATE TABLE audit_log (
  single   boolean PRIMARY KEY DEFAULT true CHECK (single),
  size     bigint NOT NULL CHECK (size >= 0),
  subtrees bytea  NOT NULL,
  grown_at bigint NOT NULL
  -- Updated in every step: room for new versions of the row beside the old one.
) WITH (fillfactor = 20);
INSERT INTO audit_log (size, subtrees, grown_at) VALUES (0, '', 0);

-- Hashes of the tree, 256 in a row: of leaves at level 0, of subtrees of 256^level leaves above. The last row of a level fills up.
CREATE TABLE audit_tiles (
  level  smallint NOT NULL,
  idx    bigint   NOT NULL,
  hashes bytea    NOT NULL CHECK (octet_length(hashes) BETWEEN 32 AND 8192),
  PRIMARY KEY (level, idx)
);
-- Hashes do not compress: trying costs more than the write.
ALTER TABLE audit_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;

-- Facts that have their record, by ce_id, for as long as a fact may come again; partitioned by the week (of seven days since the epoch) in which each was appended first.
CREATE TABLE audit_seen (
  event_id uuid    NOT NULL,
  week     integer NOT NULL,
  PRIMARY KEY (event_id, week)
) PARTITION BY LIST (week);

-- Signed heads. verifier_key: whose signature it is, as a line to copy.
CREATE TABLE audit_checkpoints (
  size         bigint PRIMARY KEY,
  root         bytea  NOT NULL CHECK (octet_length(root) = 32),
  note         text   NOT NULL,
  verifier_key text   NOT NULL,
  signed_at    bigint NOT NULL
);

-- Up Migration

-- Names of topics and groups are compared byte by byte; a collation's rules would only cost time and could change with the system.

-- Where each consumer group stands: the next offset to apply. The truth; Kafka's committed offset is a hint.
CREATE TABLE consumer_positions (
  grp         text COLLATE "C" NOT NULL,
  topic       text COLLATE "C" NOT NULL,
  part        integer NOT NULL,
  next_offset bigint  NOT NULL CHECK (next_offset >= 0),
  PRIMARY KEY (grp, topic, part)
  -- Updated in every step: room for new versions of a row beside the old one.
) WITH (fillfactor = 20);

-- What a step must tell the world, until it is published: keyed by the input record that caused it.
-- Key and headers are bytes: a dead letter carries whatever a hostile record held, and text cannot hold a NUL.
CREATE TABLE outbox (
  grp             text COLLATE "C" NOT NULL,
  input_topic     text COLLATE "C" NOT NULL,
  input_partition integer NOT NULL,
  input_offset    bigint  NOT NULL,
  n               integer NOT NULL,
  topic           text COLLATE "C" NOT NULL,
  key             bytea   NOT NULL,
  value           bytea   NOT NULL,
  headers         bytea   NOT NULL,
  PRIMARY KEY (grp, input_topic, input_partition, input_offset, n)
  -- Rows live for one step: what they leave behind is swept up by count, however small the table is at that moment.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_insert_threshold = -1);

-- Ciphertext does not compress: trying costs more than the write.
ALTER TABLE outbox ALTER COLUMN value SET STORAGE EXTERNAL;

-- Facts born in the API or a job; the relay publishes them.
CREATE TABLE facts (
  id           uuid   PRIMARY KEY,
  topic        text COLLATE "C" NOT NULL,
  key          text COLLATE "C" NOT NULL,
  -- The order within a key, taken under a lock on the row the fact is about.
  counter      bigint NOT NULL,
  value        bytea  NOT NULL,
  headers      jsonb  NOT NULL,
  created_at   bigint NOT NULL,
  published_at bigint,
  UNIQUE (key, counter)
);

CREATE INDEX facts_unpublished ON facts (key, counter) WHERE published_at IS NULL;
CREATE INDEX facts_published ON facts (published_at) WHERE published_at IS NOT NULL;

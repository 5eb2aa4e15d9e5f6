-- Up Migration

-- An agent's meter. Whoever changes what is counted of an agent holds this row: the one lock of metering.
-- stored_seqs, ended_seqs: the places of its mailbox of which was counted that something was stored there, and that it has ended. Nearly always one range;
-- at most as many as items wait.
-- waiting: stored and not ended. Below zero for as long as an end was read and what it ended was not yet.
CREATE TABLE messaging_meters (
  agent_id         text COLLATE "C" PRIMARY KEY,
  stored_seqs      int8multirange NOT NULL DEFAULT '{}',
  ended_seqs       int8multirange NOT NULL DEFAULT '{}',
  waiting_messages bigint NOT NULL DEFAULT 0,
  waiting_bytes    bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- What was counted of an agent in an hour (its beginning, ms since the epoch): only grows. Written by the metering consumer; the usage job says what it has
-- announced, and deletes what is old.
CREATE TABLE messaging_usage (
  agent_id              text COLLATE "C" NOT NULL,
  hour                  bigint  NOT NULL CHECK (hour % 3600000 = 0),
  messages_sent         bigint  NOT NULL,
  bytes_sent            bigint  NOT NULL,
  messages_received     bigint  NOT NULL,
  bytes_received        bigint  NOT NULL,
  messages_acknowledged bigint  NOT NULL,
  bytes_acknowledged    bigint  NOT NULL,
  messages_discarded    bigint  NOT NULL,
  bytes_discarded       bigint  NOT NULL,
  revision              bigint  NOT NULL,
  is_announced          boolean NOT NULL,
  PRIMARY KEY (agent_id, hour)
) WITH (fillfactor = 50);

-- What is to be announced. The first change after an announcement enters it here, those that follow leave it alone.
CREATE INDEX messaging_usage_changed ON messaging_usage (agent_id, hour) WHERE NOT is_announced;

-- What is old, and everybody's usage of an hour.
CREATE INDEX messaging_usage_hour ON messaging_usage (hour, agent_id);

-- Up Migration

-- Times are milliseconds since the epoch, as everywhere in the code. No foreign keys: each row has one writer, and the
-- writers of two tables are two consumers that must not wait for each other. At most two indexes on a hot table.

CREATE TABLE messaging_agents (
  agent_id     text COLLATE "C" PRIMARY KEY,
  identity_key bytea  NOT NULL,
  custody      text   NOT NULL CHECK (custody IN ('agent', 'server')),
  status       text   NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'revoked')),
  created_at   bigint NOT NULL
);

-- place: the order of arrival, in which one-time keys are handed out.
CREATE SEQUENCE messaging_prekey_places;

CREATE TABLE messaging_prekeys (
  agent_id              text COLLATE "C" NOT NULL,
  prekey_id             uuid   NOT NULL,
  key_type              text   NOT NULL CHECK (key_type IN ('signed', 'one-time')),
  public_key            bytea  NOT NULL,
  private_key_encrypted bytea,
  signature             bytea,
  status                text   NOT NULL CHECK (status IN ('ACTIVE', 'DEPRECATED', 'USED')),
  place                 bigint NOT NULL DEFAULT nextval('messaging_prekey_places'),
  created_at            bigint NOT NULL,
  deprecated_at         bigint,
  used_at               bigint,
  PRIMARY KEY (agent_id, prekey_id)
) PARTITION BY HASH (agent_id);

CREATE INDEX messaging_prekeys_active ON messaging_prekeys (agent_id, key_type, place) WHERE status = 'ACTIVE';

-- What a claim was answered with, so that the same request again takes no second key.
CREATE TABLE messaging_prekey_claims (
  claimer_id         text COLLATE "C" NOT NULL,
  request_id         text   NOT NULL,
  target_id          text COLLATE "C" NOT NULL,
  signed_prekey_id   uuid   NOT NULL,
  one_time_prekey_id uuid,
  claimed_at         bigint NOT NULL,
  PRIMARY KEY (claimer_id, request_id, target_id)
);

CREATE INDEX messaging_prekey_claims_age ON messaging_prekey_claims (claimed_at);

-- Written by queuing only. One small row a mailbox, updated with every batch: room for updates on its own page.
CREATE TABLE messaging_mailboxes (
  recipient_id text COLLATE "C" PRIMARY KEY,
  last_seq     bigint NOT NULL,
  stored_items bigint NOT NULL,
  stored_bytes bigint NOT NULL
) WITH (fillfactor = 50);

-- Written by acks only. Waiting = stored - ended.
CREATE TABLE messaging_mailbox_ends (
  recipient_id text COLLATE "C" PRIMARY KEY,
  ended_items  bigint NOT NULL,
  ended_bytes  bigint NOT NULL
) WITH (fillfactor = 50);

-- Waiting items only: queuing inserts, acks deletes (and sets aside).
CREATE TABLE messaging_queue (
  recipient_id text COLLATE "C" NOT NULL,
  sender_id    text COLLATE "C" NOT NULL,
  item_id      uuid   NOT NULL,
  seq          bigint NOT NULL,
  kind         text   NOT NULL CHECK (kind IN ('message', 'retry')),
  body         bytea  NOT NULL,
  created_at   bigint NOT NULL,
  expires_at   bigint NOT NULL,
  aside_at     bigint,
  PRIMARY KEY (recipient_id, sender_id, item_id)
) PARTITION BY HASH (recipient_id);

-- Bodies are ciphertext: trying to compress them is wasted.
ALTER TABLE messaging_queue ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE UNIQUE INDEX messaging_queue_seq ON messaging_queue (recipient_id, seq);

-- One row a message, for 40 days: its outcome and times, and the memory that makes a resubmission harmless.
-- A partition a day, by the time in the UUIDv7; store/message-days.ts makes and drops them.
-- turned: what the latest change of the row turned, read by the statement that made it (store/acks.ts).
CREATE TABLE messaging_messages (
  sender_id        text COLLATE "C" NOT NULL,
  message_id       uuid     NOT NULL,
  recipient_id     text COLLATE "C" NOT NULL,
  digest           bytea    NOT NULL,
  session_id       bytea    NOT NULL,
  send_counter     bigint   NOT NULL,
  seq              bigint   NOT NULL,
  size             integer  NOT NULL,
  custody          text     NOT NULL CHECK (custody IN ('agent', 'server')),
  accepted_at      bigint   NOT NULL,
  queued_at        bigint   NOT NULL,
  delivered_at     bigint,
  undeliverable_at bigint,
  outcome          text CHECK (outcome IN ('acknowledged', 'refused', 'evicted', 'expired', 'deleted')),
  code             text,
  ended_at         bigint,
  turned           smallint NOT NULL DEFAULT 0,
  PRIMARY KEY (sender_id, message_id)
) PARTITION BY RANGE (message_id);

DO $$
BEGIN
  FOR i IN 0..15 LOOP
    EXECUTE format('CREATE TABLE messaging_prekeys_%s PARTITION OF messaging_prekeys FOR VALUES WITH (MODULUS 16, REMAINDER %s)', lpad(i::text, 2, '0'), i);
  END LOOP;
  -- Every row of a queue is soon dead: cleaned after little, or the head of each mailbox's index fills with the departed.
  FOR i IN 0..63 LOOP
    EXECUTE format('CREATE TABLE messaging_queue_%s PARTITION OF messaging_queue FOR VALUES WITH (MODULUS 64, REMAINDER %s) WITH (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 1000)', lpad(i::text, 2, '0'), i);
  END LOOP;
END
$$;

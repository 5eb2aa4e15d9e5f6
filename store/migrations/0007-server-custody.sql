-- Up Migration

-- Of server custody: the key its calls are signed with, and the seed of its identity, sealed under its master key.
ALTER TABLE messaging_agents ADD COLUMN access_key bytea, ADD COLUMN identity_sealed bytea;
CREATE UNIQUE INDEX messaging_agents_access_key ON messaging_agents (access_key) WHERE access_key IS NOT NULL;

-- Server custody: all that an agent keeps about a peer, sealed (protocol/peer-record.ts). One row a pair; state is null before the first message.
-- Its two writers, sending and opening, lock it. Each write has a version of its own.
CREATE TABLE messaging_sessions (
  owner_id text COLLATE "C" NOT NULL,
  peer_id  text COLLATE "C" NOT NULL,
  version  bigint NOT NULL,
  state    bytea,
  PRIMARY KEY (owner_id, peer_id)
) PARTITION BY HASH (owner_id);

-- Sealed states are random bytes: trying to compress them is wasted.
ALTER TABLE messaging_sessions ALTER COLUMN state SET STORAGE EXTERNAL;

DO $$
BEGIN
  FOR i IN 0..31 LOOP
    EXECUTE format('CREATE TABLE messaging_sessions_%s PARTITION OF messaging_sessions FOR VALUES WITH (MODULUS 32, REMAINDER %s) WITH (fillfactor = 50)', lpad(i::text, 2, '0'), i);
  END LOOP;
END
$$;

-- What became of commands of server custody: the envelope that a repeat publishes again. A partition a day (store/message-days.ts).
CREATE TABLE messaging_commands (
  sender_id  text COLLATE "C" NOT NULL,
  message_id uuid  NOT NULL,
  hmac       bytea NOT NULL,
  envelope   bytea NOT NULL,
  PRIMARY KEY (sender_id, message_id)
) PARTITION BY RANGE (message_id);

ALTER TABLE messaging_commands ALTER COLUMN envelope SET STORAGE EXTERNAL;

-- What was opened for agents of server custody. content: sealed, until the item has ended; outcome: why there is none. A partition a day.
CREATE TABLE messaging_opened (
  recipient_id text COLLATE "C" NOT NULL,
  sender_id    text COLLATE "C" NOT NULL,
  message_id   uuid NOT NULL,
  outcome      text NOT NULL,
  content      bytea,
  PRIMARY KEY (recipient_id, sender_id, message_id)
) PARTITION BY RANGE (message_id);

ALTER TABLE messaging_opened ALTER COLUMN content SET STORAGE EXTERNAL;

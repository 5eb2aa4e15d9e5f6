-- Up Migration

-- What an agent sent to a peer in a session: one row for each, in either custody. Written by the sessions consumer only.
CREATE TABLE messaging_session_facts (
  owner_id           text COLLATE "C" NOT NULL,
  peer_id            text COLLATE "C" NOT NULL,
  session_id         bytea  NOT NULL,
  -- Of the newest message.
  message_id         uuid   NOT NULL,
  dh_public_key      bytea  NOT NULL,
  send_counter       bigint NOT NULL,
  previous_counter   bigint NOT NULL,
  messages           bigint NOT NULL,
  first_at           bigint NOT NULL,
  last_at            bigint NOT NULL,
  -- Of the first message with an initiation: null where the owner did not initiate the session.
  suite              smallint,
  signed_prekey_id   uuid,
  one_time_prekey_id uuid,
  kem_prekey_id      uuid,
  initialized_at     bigint,
  PRIMARY KEY (owner_id, peer_id, session_id)
) PARTITION BY HASH (owner_id);

-- An agent's pages, newest first; and the only way in which old rows are found.
CREATE INDEX messaging_session_facts_age ON messaging_session_facts (owner_id, last_at, peer_id, session_id);

-- A pair's newest sessions: who sends names the sessions, and may name any number.
CREATE INDEX messaging_session_facts_pair ON messaging_session_facts (owner_id, peer_id, last_at);

DO $$
BEGIN
  FOR i IN 0..31 LOOP
    EXECUTE format('CREATE TABLE messaging_session_facts_%s PARTITION OF messaging_session_facts FOR VALUES WITH (MODULUS 32, REMAINDER %s)', lpad(i::text, 2, '0'), i);
  END LOOP;
END
$$;

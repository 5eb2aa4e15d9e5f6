-- Up Migration

-- What is sealed anew each day (store/custody/sealed-columns.ts) is walked through in the order of its key, past all that holds nothing sealed:
-- prekeys of agents that keep their own keys, outcomes of messages that have ended.
CREATE INDEX messaging_prekeys_sealed ON messaging_prekeys (agent_id, prekey_id) WHERE private_key_encrypted IS NOT NULL;
CREATE INDEX messaging_opened_sealed ON messaging_opened (recipient_id, sender_id, message_id) WHERE content IS NOT NULL;

-- Which keyring belongs to this database: one row, written when a keyring is first used, or accepted by an operator.
-- destructions: the most that were seen in it. An older copy of it has fewer.
-- newest_day, newest_epoch: the newest keys that were seen in it. It has them, or they were destroyed.
-- accepted_at: agents registered before are not expected in it.
CREATE TABLE messaging_keyring (
  single       boolean PRIMARY KEY DEFAULT true CHECK (single),
  keyring_id   uuid   NOT NULL,
  destructions bigint NOT NULL,
  newest_day   bigint,
  newest_epoch bigint,
  accepted_at  bigint NOT NULL
);

-- Who was registered last is expected in the keyring.
CREATE INDEX messaging_agents_held ON messaging_agents (created_at) WHERE identity_sealed IS NOT NULL;

-- Since when values that do not open hold keys of days; null while none does. One row.
CREATE TABLE messaging_resealing (
  single         boolean PRIMARY KEY DEFAULT true CHECK (single),
  unopened_since bigint
);

-- Up Migration

-- kem: ML-KEM-768, handed out once. kem-last-resort: the same, repeatedly; replaced with the signed prekey.
ALTER TABLE messaging_prekeys
  DROP CONSTRAINT messaging_prekeys_key_type_check,
  ADD CONSTRAINT messaging_prekeys_key_type_check CHECK (key_type IN ('signed', 'one-time', 'kem', 'kem-last-resort'));

-- stored_at: our clock. A one-time prekey's age counts from here, whatever its owner's clock said when it signed created_at.
ALTER TABLE messaging_prekeys ADD COLUMN stored_at bigint;
UPDATE messaging_prekeys SET stored_at = created_at;
-- The default is for processes of the version before, which do not name it.
ALTER TABLE messaging_prekeys
  ALTER COLUMN stored_at SET DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
  ALTER COLUMN stored_at SET NOT NULL;

-- The next one to hand out, what is left, what was handed out last: all in the order of place.
DROP INDEX messaging_prekeys_active;
CREATE INDEX messaging_prekeys_order ON messaging_prekeys (agent_id, key_type, status, place);

-- Since when a prekey is handed out no more: used, replaced, retired, or a one-time prekey that was 30 days here. For the job that deletes.
CREATE INDEX messaging_prekeys_ended ON messaging_prekeys ((coalesce(used_at, deprecated_at, stored_at + 2592000000)))
  WHERE status <> 'ACTIVE' OR key_type IN ('one-time', 'kem');

ALTER TABLE messaging_prekey_claims ADD COLUMN kem_prekey_id uuid;

-- A row as long as an agent has run low of a kind and its owner was told; an upload that brings enough deletes it.
CREATE TABLE messaging_prekey_dips (
  agent_id text COLLATE "C" NOT NULL,
  key_type text   NOT NULL CHECK (key_type IN ('one-time', 'kem')),
  began_at bigint NOT NULL,
  PRIMARY KEY (agent_id, key_type)
);

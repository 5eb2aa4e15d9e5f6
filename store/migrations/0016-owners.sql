-- Up Migration

-- Who answers for an agent, as an issuer whom the operator trusts has said it. Null: it was registered where that is not asked for.
ALTER TABLE messaging_agents
  ADD COLUMN owner_issuer  text COLLATE "C",
  ADD COLUMN owner_subject text COLLATE "C",
  ADD CONSTRAINT messaging_agents_owner_whole CHECK ((owner_issuer IS NULL) = (owner_subject IS NULL));

CREATE INDEX messaging_agents_owned ON messaging_agents (owner_issuer, owner_subject, agent_id) WHERE owner_issuer IS NOT NULL;

-- Further keys that sign an agent's requests (store/signing-keys.ts). One that was removed stays until it would have ended: its certificate holds for as
-- long, and whoever has it must not bring the key back.
CREATE TABLE messaging_signing_keys (
  -- RFC 7638 thumbprint, as an agent id is: what stands in keyid.
  key_id      text   COLLATE "C" PRIMARY KEY,
  agent_id    text   COLLATE "C" NOT NULL,
  public_key  bytea  NOT NULL,
  certificate bytea  NOT NULL,
  not_after   bigint NOT NULL,
  created_at  bigint NOT NULL,
  removed_at  bigint
);

CREATE INDEX messaging_signing_keys_agent ON messaging_signing_keys (agent_id, created_at);

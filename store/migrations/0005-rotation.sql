-- Up Migration

-- Which signed prekeys in force are the oldest: one row an agent, written once a week.
CREATE INDEX messaging_prekeys_signed_age ON messaging_prekeys (created_at, agent_id) WHERE key_type = 'signed' AND status = 'ACTIVE';

-- Whose prekeys the service itself has to keep fresh.
CREATE INDEX messaging_agents_server ON messaging_agents (agent_id) WHERE custody = 'server';

-- When the world was last told that an agent's prekeys could not be rotated.
CREATE TABLE messaging_rotation_failures (
  agent_id    text COLLATE "C" PRIMARY KEY,
  code        text   NOT NULL,
  reported_at bigint NOT NULL
);

-- How the prekeys of all agents are doing, as last counted: one row.
CREATE TABLE messaging_prekey_health (
  single            boolean PRIMARY KEY DEFAULT true CHECK (single),
  counted_at        bigint NOT NULL,
  agents_low        bigint NOT NULL,
  agents_older_7d   bigint NOT NULL,
  agents_older_30d  bigint NOT NULL
);

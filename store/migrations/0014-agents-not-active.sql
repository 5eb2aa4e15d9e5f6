-- Up Migration

-- Gateways ask every two seconds which of their agents are not active any more: nearly none.
CREATE INDEX messaging_agents_not_active ON messaging_agents (agent_id) WHERE status <> 'active';

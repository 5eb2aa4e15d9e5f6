-- Up Migration

-- Where an agent that is not connected is woken: at most ten an agent (store/devices.ts).
CREATE TABLE messaging_devices (
  agent_id     text COLLATE "C" NOT NULL,
  device_id    uuid   NOT NULL,
  kind         text   NOT NULL CHECK (kind IN ('fcm', 'apns', 'webhook')),
  -- The provider's token, or the webhook's URL.
  address      text   NOT NULL,
  -- APNs: tokens of one are unknown to the other.
  environment  text   CHECK (environment IN ('production', 'sandbox')),
  urgency      text   NOT NULL CHECK (urgency IN ('background', 'urgent')),
  -- What calls of a webhook are signed with. It opens nothing: whoever reads it here can forge wake-ups.
  secret       text,
  created_at   bigint NOT NULL,
  -- When the agent last said that this is its device.
  refreshed_at bigint NOT NULL,
  PRIMARY KEY (agent_id, device_id)
);

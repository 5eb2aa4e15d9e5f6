/** For services that are measured: few agents send what many would, so their limits are out of reach. They are counted all the same. */
export const withoutLimits = {
  SEALPOST_CALLS_PER_MINUTE: "10000000",
  SEALPOST_MESSAGES_PER_MINUTE: "10000000",
  SEALPOST_PAIR_MESSAGES_PER_MINUTE: "10000000",
  SEALPOST_REGISTRATIONS_PER_HOUR: "10000000",
};

import { shake256 } from "@noble/hashes/sha3.js";
import { decodeFrame, encodeFrame, padme } from "../frame.ts";
import { type Case, Fields, Mismatch } from "./case.ts";

export function paddingCases(file: Fields): Case[] {
  return [
    ...file.list("padme").map(padmeCase),
    ...file.list("frames").map(frameCase),
    ...file.list("refused_frames").map(refusedCase),
  ];
}

function padmeCase(row: unknown): Case {
  return {
    name: `padme ${JSON.stringify(row)}`,
    run: (_primitives, checks) => {
      if (!Array.isArray(row) || row.length !== 2) throw new Mismatch("not a pair of lengths");
      checks.equal("padded length", padme(row[0]), row[1]);
    },
  };
}

function frameCase(value: unknown, index: number): Case {
  return {
    name: `frame ${index}`,
    run: (primitives, checks) => {
      const fields = new Fields(value);
      const content = { contentType: fields.string("content_type"), body: bodyOf(fields) };
      const frame = encodeFrame(content);
      checks.equal("frame_length", frame.length, fields.number("frame_length"));
      checks.equal("frame_sha256", primitives.sha256(frame), fields.bytes("frame_sha256"));
      if (fields.has("frame")) checks.equal("frame", frame, fields.bytes("frame"));
      checks.equal("the frame decoded", decodeFrame(frame), content);
      fields.end();
    },
  };
}

function bodyOf(fields: Fields): Uint8Array {
  if (fields.has("body")) return fields.bytes("body");
  return shake256(fields.bytes("body_shake256_of"), { dkLen: fields.number("body_length") });
}

function refusedCase(value: unknown, index: number): Case {
  return {
    name: `refused frame ${index}: ${new Fields(value).comment("reason")}`,
    run: (_primitives, checks) => {
      const fields = new Fields(value);
      checks.equal("fault", decodeFrame(fields.bytes("frame")), fields.string("error"));
      fields.comment("reason");
      fields.end();
    },
  };
}

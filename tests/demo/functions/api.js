// SPDX-License-Identifier: Apache-2.0
//
// GET /?seed=N: an order of a small shop, priced and signed, as JSON.
'use strict';
const crypto = require('crypto');
const http = require('http');

const prices = new Map(Array.from({ length: 20000 }, (_, i) => [`item-${i}`, (i * 7919) % 1000]));

function order(seed) {
  const lines = Array.from({ length: 5 }, (_, i) => {
    const item = `item-${(seed * 31 + i * 977) % prices.size}`;
    return { item, cents: prices.get(item) };
  });
  const total = lines.reduce((sum, line) => sum + line.cents, 0);
  return { seed, lines, total, signature: crypto.createHmac('sha256', 'key').update(`${seed}:${total}`).digest('hex') };
}

http.createServer((request, response) => {
  const seed = Number(new URL(request.url, 'http://function').searchParams.get('seed') || 0);
  response.end(JSON.stringify(order(seed)));
}).listen(Number(process.env.PORT || 8080), process.env.ADDRESS || '127.0.0.1');

# The service as an image: sources run directly, so there is no build step and nothing but runtime packages.
FROM node:26-slim
ENV NODE_ENV=production
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund && npm cache clean --force
COPY . .
USER node
EXPOSE 8080
CMD ["node", "bin/service.ts"]

"""Documents of an App: AsyncAPI with JSON Schemas, types for TypeScript, and a page. Imported on demand."""

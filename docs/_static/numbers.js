// Search for numbers too, such as the close code 1013. Sphinx leaves them out of what it searches for.
const { _parseQuery } = Search;

Search._parseQuery = (query) => {
  const parsed = _parseQuery(query);
  const [, searchTerms, , highlightTerms] = parsed;
  for (const number of query.match(/\b\d{3,5}\b/g) ?? []) {
    searchTerms.add(number);
    highlightTerms.add(number);
  }
  return parsed;
};

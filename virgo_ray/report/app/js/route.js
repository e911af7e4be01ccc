/* Places in the report are hashes, such as `#/traces?round=2&status=wrong`: they can be kept, sent,
   and gone back to. */
"use strict";

(function (Virgo) {
  function read() {
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
    const parameters = {};
    for (const [name, value] of new URLSearchParams(query || "")) parameters[name] = value;
    return { view: path || "overview", parameters };
  }

  /** The hash of a view with these parameters; empty ones are left out. */
  function link(view, parameters) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(parameters || {})) {
      if (value !== null && value !== undefined && value !== "") query.set(name, value);
    }
    const text = query.toString();
    return "#/" + view + (text ? "?" + text : "");
  }

  /** Go to a view; the back button comes back. */
  function go(view, parameters) {
    location.hash = link(view, parameters);
  }

  Virgo.route = { read, link, go };
})(window.Virgo);

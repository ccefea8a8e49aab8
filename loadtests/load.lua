-- Requests of known users for wrk: every head is another one, and no two in a row are the same user's.
-- Arguments: file of users (id, cell, residency token; tabs between), host, path, place of the first user.

local agents, languages = {}, { "de-DE,de;q=0.8", "fr-FR,fr;q=0.9,en;q=0.4", "nl-NL", "en-GB,en;q=0.7", "pl-PL,pl;q=0.9" }
local users, head, tail, place, count = {}, "", "", 0, 0

function init(arguments)
  for minor = 100, 139 do
    agents[#agents + 1] = "Mozilla/5.0 (X11; Linux x86_64; rv:" .. minor .. ".0) Gecko/20100101 Firefox/" .. minor .. ".0"
  end
  for line in io.lines(arguments[1]) do
    local id, cell, token = line:match("^(%S+)\t(%S+)\t(%S+)$")
    users[#users + 1] = "\r\nX-User: " .. id .. "\r\nX-Cell: " .. cell
      .. "\r\nCookie: theme=dark; sid=s" .. id .. "; __Host-domicile=" .. token
  end
  head = "GET " .. arguments[3] .. "?page="
  tail = " HTTP/1.1\r\nHost: " .. arguments[2] .. "\r\nAccept: application/json\r\nAccept-Encoding: gzip, br\r\nUser-Agent: "
  place = tonumber(arguments[4])
end

function request()
  count = count + 1
  return head .. count % 97 .. tail .. agents[count % #agents + 1] .. "\r\nAccept-Language: "
    .. languages[count % #languages + 1] .. "\r\nX-Request-Id: " .. string.format("%08x%08x", place, count)
    .. users[(place + count) % #users + 1] .. "\r\n\r\n"
end

function done(summary, latency, requests)
  local lost = summary.errors
  io.write(string.format(
    '{"requests": %d, "refused": %d, "broken": %d}\n',
    summary.requests, lost.status, lost.connect + lost.read + lost.write + lost.timeout
  ))
end

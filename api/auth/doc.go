// Package auth says who asks and what they may do.
//
// A user is known by a client certificate of the node's own certificate
// authority or by a bearer token of a file; everybody else is refused. What a
// user may do is one of three roles, which their groups name: view, edit and
// admin. There are no roles to define and nothing to bind.
//
// [Open] keeps the certificate authority and the server's certificate in a
// directory, and makes both at the first start. [PKI.Issue] makes a user's
// certificate, [Kubeconfig] the file that kubectl reads. [Auth] is the part that
// stands before a server.
//
// Read first: [Role], [Auth.Handler] and [Open].
package auth

"""Parts of networks that more than one method uses, or that are no method's own idea."""
